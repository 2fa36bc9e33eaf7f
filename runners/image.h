// An image as its pixels, the file that it comes from, and how large both may be.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include <sys/stat.h>

struct Image {
  int height = 0, width = 0;
  std::vector<uint8_t> rgb;  // height x width x 3
};

namespace image {

constexpr int64_t kMaxPixels = 89478485;         // of an image, as Pillow has it
constexpr size_t kMaxBytes = size_t(256) << 20;  // of a photograph's file

// The most that an image may have: kMaxPixels, or what the environment says.
inline int64_t MaxPixels() {
  const char* given = std::getenv("MOBILENETV2_MAX_PIXELS");
  if (!given) return kMaxPixels;
  const std::string text = given;
  const int64_t most = std::strtoll(given, nullptr, 10);  // or the largest there is
  if (text.find_first_not_of("0123456789") != text.npos || most < 1) {
    throw std::runtime_error("the environment's MOBILENETV2_MAX_PIXELS is '" + text +
                             "': give a whole number of 1 or more, or unset it");
  }
  return most;
}

// Throws std::runtime_error for a pipe or a device, which would be waited for or read without end, and for what is not
// there.
inline void CheckFile(const std::string& path) {
  struct stat found;
  if (stat(path.c_str(), &found)) throw std::runtime_error(std::strerror(errno));
  if (!S_ISREG(found.st_mode) && !S_ISDIR(found.st_mode)) {
    throw std::runtime_error("is a pipe or a device; give the name of a file");
  }
}

inline void CheckPixels(int64_t width, int64_t height, int64_t most) {
  if (width * height <= most) return;
  throw std::runtime_error("has " + std::to_string(width) + "x" + std::to_string(height) + " pixels, more than " +
                           std::to_string(most) + " (the environment's MOBILENETV2_MAX_PIXELS may allow more)");
}

inline std::vector<uint8_t> FileContent(const std::string& path, size_t most = SIZE_MAX) {
  CheckFile(path);
  std::vector<uint8_t> content, part(1 << 16);
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (!file) throw std::runtime_error(std::strerror(errno));
  while (const size_t count = std::fread(part.data(), 1, part.size(), file)) {
    content.insert(content.end(), part.begin(), part.begin() + count);
    if (content.size() > most) break;
  }
  const int error = std::ferror(file) ? errno : 0;
  std::fclose(file);
  if (error) throw std::runtime_error(std::strerror(error));
  if (content.size() > most) {
    throw std::runtime_error("has more than " + std::to_string(most >> 20) + " MiB; another file, or a damaged one?");
  }
  return content;
}

}  // namespace image
