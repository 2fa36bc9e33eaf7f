// cv2.resize(image, (width, height)) of 8-bit RGB, by INTER_AREA where it shrinks and INTER_LINEAR where it enlarges,
// with OpenCV's arithmetic, so that the network sees the same numbers (opencv/modules/imgproc/src/resize.cpp, version
// 4.11).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "image.h"

namespace resize {

inline uint8_t Rounded(float value) { return uint8_t(std::clamp(std::nearbyint(value), 0.0f, 255.0f)); }

// How much of the source's pixel `from` goes into pixel `to`.
struct Share {
  int from, to;
  float weight;
};

inline std::vector<Share> Shares(int from_size, int to_size, double scale) {
  std::vector<Share> shares;
  for (int to = 0; to < to_size; ++to) {
    const double begin = to * scale, end = begin + scale;
    const double width = std::min(scale, from_size - begin);
    const int last = std::min(int(std::floor(end)), from_size - 1);
    const int first = std::min(int(std::ceil(begin)), last);
    if (first - begin > 1e-3) shares.push_back({first - 1, to, float((first - begin) / width)});
    for (int from = first; from < last; ++from) shares.push_back({from, to, float(1.0 / width)});
    if (end - last > 1e-3) shares.push_back({last, to, float(std::min(std::min(end - last, 1.0), width) / width)});
  }
  return shares;
}

inline void ShrinkByAny(const Image& image, double scale_x, double scale_y, Image* out) {
  const std::vector<Share> columns = Shares(image.width, out->width, scale_x);
  const std::vector<Share> rows = Shares(image.height, out->height, scale_y);
  std::vector<float> line(3 * out->width), sum(3 * out->width, 0.0f);
  for (size_t i = 0; i < rows.size(); ++i) {
    std::fill(line.begin(), line.end(), 0.0f);
    const uint8_t* source = &image.rgb[size_t(3) * image.width * rows[i].from];
    for (const Share& share : columns) {
      for (int c = 0; c < 3; ++c) line[3 * share.to + c] += source[3 * share.from + c] * share.weight;
    }
    for (size_t x = 0; x < line.size(); ++x) sum[x] += line[x] * rows[i].weight;
    if (i + 1 == rows.size() || rows[i + 1].to != rows[i].to) {
      std::transform(sum.begin(), sum.end(), &out->rgb[line.size() * rows[i].to], Rounded);
      std::fill(sum.begin(), sum.end(), 0.0f);
    }
  }
}

inline void ShrinkByWhole(const Image& image, int scale_x, int scale_y, Image* out) {
  const bool by_two = scale_x == 2 && scale_y == 2;  // where OpenCV rounds halves up, elsewhere to even
  const float weight = 1.0f / (scale_x * scale_y);
  for (int y = 0; y < out->height; ++y) {
    for (int x = 0; x < 3 * out->width; ++x) {
      int sum = 0;
      for (int dy = 0; dy < scale_y; ++dy) {
        const uint8_t* source = &image.rgb[size_t(3) * image.width * (y * scale_y + dy)];
        for (int dx = 0; dx < scale_x; ++dx) sum += source[3 * (x / 3 * scale_x + dx) + x % 3];
      }
      out->rgb[size_t(3) * out->width * y + x] = by_two ? uint8_t((sum + 2) >> 2) : Rounded(sum * weight);
    }
  }
}

// Two neighbours in the source, and their weights in 1/2048.
struct Pair {
  int first, second;
  int weight, other;
};

inline std::vector<Pair> Pairs(int from_size, int to_size) {
  const double scale = 1.0 / (double(to_size) / from_size);
  std::vector<Pair> pairs;
  for (int to = 0; to < to_size; ++to) {
    const float centre = float((to + 0.5) * scale - 0.5);
    const int from = int(std::floor(centre));
    const float part = centre - from;
    pairs.push_back({std::max(from, 0), std::min(from + 1, from_size - 1), int(std::lrint((1.0f - part) * 2048)),
                     int(std::lrint(part * 2048))});
  }
  return pairs;
}

inline void Enlarge(const Image& image, Image* out) {
  const std::vector<Pair> columns = Pairs(image.width, out->width);
  const std::vector<Pair> rows = Pairs(image.height, out->height);
  for (int y = 0; y < out->height; ++y) {
    const uint8_t* first = &image.rgb[size_t(3) * image.width * rows[y].first];
    const uint8_t* second = &image.rgb[size_t(3) * image.width * rows[y].second];
    for (int x = 0; x < 3 * out->width; ++x) {
      const Pair& pair = columns[x / 3];
      const int left = 3 * pair.first + x % 3, right = 3 * pair.second + x % 3;
      const int above = first[left] * pair.weight + first[right] * pair.other;
      const int below = second[left] * pair.weight + second[right] * pair.other;
      out->rgb[size_t(3) * out->width * y + x] =
          uint8_t(((rows[y].weight * (above >> 4) >> 16) + (rows[y].other * (below >> 4) >> 16) + 2) >> 2);
    }
  }
}

inline Image Resized(const Image& image, int height, int width) {
  if (height == image.height && width == image.width) return image;
  const double scale_x = 1.0 / (double(width) / image.width), scale_y = 1.0 / (double(height) / image.height);
  const int whole_x = int(std::lrint(scale_x)), whole_y = int(std::lrint(scale_y));
  Image out{height, width, std::vector<uint8_t>(size_t(3) * height * width)};
  if (scale_x < 1 || scale_y < 1) {
    Enlarge(image, &out);
  } else if (std::abs(scale_x - whole_x) < 1e-12 && std::abs(scale_y - whole_y) < 1e-12) {
    ShrinkByWhole(image, whole_x, whole_y, &out);
  } else {
    ShrinkByAny(image, scale_x, scale_y, &out);
  }
  return out;
}

}  // namespace resize
