// A JPEG file as the pixels that OpenCV's imread gives for it, by libjpeg: upright as its EXIF data say, and CMYK made
// RGB by OpenCV's formula.
#pragma once

#include <csetjmp>
#include <cstdio>
#include <utility>

#include <jpeglib.h>

#include <jerror.h>

#include "image.h"

namespace jpeg {

constexpr int kMaxScans = 500;  // of a JPEG

struct ErrorManager {
  jpeg_error_mgr base;  // the first member: libjpeg knows no more than its address
  std::jmp_buf escape;
  char message[JMSG_LENGTH_MAX];
};

inline void Fail(j_common_ptr common) {
  auto* errors = reinterpret_cast<ErrorManager*>(common->err);
  common->err->format_message(common, errors->message);
  std::longjmp(errors->escape, 1);
}

// libjpeg fills what a damaged file lacks with grey and warns. Another version of JFIF than 1 does not affect pixels.
inline void FailIfWarning(j_common_ptr common, int level) {
  if (level < 0 && common->err->msg_code != JWRN_JFIF_MAJOR) Fail(common);
}

// Each scan costs a pass over the image, whatever it holds.
inline void FailAtManyScans(j_common_ptr common) {
  if (reinterpret_cast<j_decompress_ptr>(common)->input_scan_number <= kMaxScans) return;
  auto* errors = reinterpret_cast<ErrorManager*>(common->err);
  std::snprintf(errors->message, sizeof errors->message, "more than %d scans", kMaxScans);
  std::longjmp(errors->escape, 1);
}

// Value 1 to 8 of the tag Orientation in the first directory of `exif` (TIFF, of either byte order), else 1.
inline int Orientation(const uint8_t* exif, size_t size) {
  const bool little = size > 1 && exif[0] == 'I';
  auto number = [&](size_t at, int bytes) {
    uint32_t value = 0;
    for (int i = 0; i < bytes; ++i) value = value << 8 | exif[at + (little ? bytes - 1 - i : i)];
    return value;
  };
  if (size < 8 || exif[0] != exif[1] || (exif[0] != 'I' && exif[0] != 'M') || number(2, 2) != 42) return 1;
  const size_t directory = number(4, 4);
  if (directory + 2 > size) return 1;
  for (size_t i = 0, at = directory + 2; i < number(directory, 2) && at + 12 <= size; ++i, at += 12) {
    if (number(at, 2) == 0x112) {
      const int value = number(at + 8, 2);
      return 1 <= value && value <= 8 ? value : 1;
    }
  }
  return 1;
}

// `image`, which was stored in `orientation` of EXIF, upright.
inline Image Upright(Image image, int orientation) {
  if (orientation == 1) return image;
  const bool transposed = orientation >= 5;
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Image out;
  out.height = transposed ? image.width : image.height;
  out.width = transposed ? image.height : image.width;
  out.rgb.reserve(image.rgb.size());
  for (int y = 0; y < out.height; ++y) {
    for (int x = 0; x < out.width; ++x) {
      int row = transposed ? x : y, column = transposed ? y : x;
      if (from_bottom) row = image.height - 1 - row;
      if (from_right) column = image.width - 1 - column;
      const auto pixel = image.rgb.begin() + 3 * (size_t(row) * image.width + column);
      out.rgb.insert(out.rgb.end(), pixel, pixel + 3);
    }
  }
  return out;
}

inline void RgbOfCmyk(const uint8_t* cmyk, uint8_t* rgb, int width) {
  for (int x = 0; x < width; ++x, cmyk += 4, rgb += 3) {
    for (int c = 0; c < 3; ++c) rgb[c] = uint8_t(cmyk[3] - ((255 - cmyk[c]) * cmyk[3] >> 8));
  }
}

// What libjpeg holds, in one place that outlives its long jumps.
struct Decoder {
  jpeg_decompress_struct info{};
  ErrorManager errors{};
  jpeg_progress_mgr progress{};
  Image image;
  std::vector<uint8_t> line;
  int orientation = 1;

  ~Decoder() { jpeg_destroy_decompress(&info); }

  // If it returns false, `errors.message` says why. Throws std::runtime_error for more than `most` pixels.
  bool Run(const std::vector<uint8_t>& content, int64_t most) {
    info.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = Fail;
    errors.base.emit_message = FailIfWarning;
    if (setjmp(errors.escape)) return false;
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, const_cast<uint8_t*>(content.data()), content.size());
    jpeg_save_markers(&info, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(&info, TRUE);
    image::CheckPixels(info.image_width, info.image_height, most);
    if (const auto* exif = info.marker_list; exif && exif->data_length > 6) {
      orientation = Orientation(exif->data + 6, exif->data_length - 6);
    }
    const bool cmyk = info.num_components == 4;
    info.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    progress.progress_monitor = FailAtManyScans;
    info.progress = &progress;
    jpeg_start_decompress(&info);
    image.height = info.output_height;
    image.width = info.output_width;
    image.rgb.resize(size_t(3) * image.height * image.width);
    line.resize(size_t(4) * image.width);
    while (info.output_scanline < info.output_height) {
      uint8_t* rgb = &image.rgb[size_t(3) * image.width * info.output_scanline];
      uint8_t* row = cmyk ? line.data() : rgb;
      jpeg_read_scanlines(&info, &row, 1);
      if (cmyk) RgbOfCmyk(row, rgb, image.width);
    }
    if (ScansAreMissing()) {
      std::snprintf(errors.message, sizeof errors.message, "scans are missing");
      return false;
    }
    jpeg_finish_decompress(&info);
    return true;
  }

  // Of these libjpeg says nothing.
  bool ScansAreMissing() const {
    for (int c = 0; c < info.num_components; ++c) {
      if (!info.comp_info[c].quant_table) return true;  // which a component's first scan brings
      for (int k = 0; info.coef_bits && k < DCTSIZE2; ++k) {
        if (info.coef_bits[c][k]) return true;  // bits that are still to come
      }
    }
    return false;
  }
};

// Throws std::runtime_error, whose text names the file, for one that is missing, damaged, too large or no JPEG.
inline Image Read(const std::string& path) {
  const int64_t most = image::MaxPixels();
  try {
    std::vector<uint8_t> content = image::FileContent(path, image::kMaxBytes);
    if (content.empty()) throw std::runtime_error("empty file");
    content.insert(content.end(), {0xff, JPEG_EOI});  // an image may lack its end, and a truncated one ends there
    Decoder decoder;
    if (!decoder.Run(content, most)) {
      throw std::runtime_error(std::string("is not a JPEG, or a damaged one (") + decoder.errors.message + ")");
    }
    return Upright(std::move(decoder.image), decoder.orientation);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(path + ": " + error.what());
  }
}

}  // namespace jpeg
