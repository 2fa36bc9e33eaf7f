// A binary PPM file (P6 of Netpbm, 8 bits) as its pixels.
#pragma once

#include <algorithm>
#include <cctype>

#include "image.h"

namespace ppm {

// The next number of a header, after white space and comments; -1 if there is none.
inline int64_t Number(const std::vector<uint8_t>& content, size_t* at) {
  for (; *at < content.size() && (std::isspace(content[*at]) || content[*at] == '#'); ++*at) {
    if (content[*at] == '#') while (*at + 1 < content.size() && content[*at] != '\n') ++*at;
  }
  int64_t number = -1;
  for (int digits = 0; *at < content.size() && std::isdigit(content[*at]) && digits < 9; ++*at, ++digits) {
    number = std::max<int64_t>(number, 0) * 10 + content[*at] - '0';
  }
  return number;
}

// Throws std::runtime_error, whose text names the file, for one that is missing, damaged, too large or no PPM.
inline Image Read(const std::string& path) {
  const int64_t most = image::MaxPixels();
  try {
    const std::vector<uint8_t> content = image::FileContent(path, image::kMaxBytes);
    size_t at = 2;
    if (content.size() <= at || content[0] != 'P' || content[1] != '6' || !std::isspace(content[at])) {
      throw std::runtime_error("is not a binary PPM file (P6), which this program reads");
    }
    const int64_t width = Number(content, &at), height = Number(content, &at), depth = Number(content, &at);
    if (width < 1 || height < 1 || depth != 255) {
      throw std::runtime_error("is not a PPM file of 8 bits, or a damaged one");
    }
    image::CheckPixels(width, height, most);
    if (content.size() != ++at + 3 * size_t(width) * height) {
      throw std::runtime_error("is a damaged PPM file: it has not as many pixels as it says");
    }
    return {int(height), int(width), {content.begin() + at, content.end()}};
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(path + ": " + error.what());
  }
}

}  // namespace ppm
