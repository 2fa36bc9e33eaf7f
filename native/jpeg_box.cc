// A rectangle of a JPEG image, without the work for the rest of it: what is right, left and above it is not
// transformed, and what is below it is not even read. The pixels are those of the complete image decoded, to the bit.
//
// Compiled against libjpeg-turbo, which alone can do this. Nothing of Python: common/data/jpeg_box.py calls it by ctypes,
// which lets other threads of Python run meanwhile.

#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <jpeglib.h>

namespace {

// A pixel beside the rectangle that colours are interpolated from, of which there are half as many as of pixels, and
// what the library makes otherwise at the edge where it begins.
constexpr JDIMENSION kMargin = 8;

// As in common/images/jpeg_header.py.
constexpr int kMaxScans = 500;

struct Errors {
  jpeg_error_mgr manager;
  std::jmp_buf failed;
};

void Fail(j_common_ptr info) { std::longjmp(reinterpret_cast<Errors*>(info->err)->failed, 1); }

void FailAtWarnings(j_common_ptr info, int level) {
  if (level < 0) Fail(info);
}

void FailAtScans(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMaxScans) Fail(info);
}

// Whether every bit of every coefficient was in one of the scans; libjpeg makes an image of what there is, and does not
// warn. False if it keeps no account of the scans.
bool IsWhole(j_decompress_ptr info) {
  if (!jpeg_has_multiple_scans(info)) return true;
  if (!info->progressive_mode) return false;
  for (int component = 0; component < info->num_components; ++component) {
    for (int i = 0; i < DCTSIZE2; ++i) {
      if (info->coef_bits[component][i]) return false;
    }
  }
  return true;
}

}  // namespace

// Writes `height` rows of `width` pixels, BGR, from row `top` and column `left` of the image, to `pixels`. Returns 0, or
// 1 if it is damaged, has no such rectangle, has colours that libjpeg does not turn into BGR, or may lack a scan.
extern "C" int decode_box(const unsigned char* jpeg, size_t size, JDIMENSION top, JDIMENSION left, JDIMENSION height,
                          JDIMENSION width, unsigned char* pixels) {
  jpeg_decompress_struct info;
  Errors errors;
  unsigned char* volatile row = nullptr;
  info.err = jpeg_std_error(&errors.manager);
  errors.manager.error_exit = Fail;
  errors.manager.emit_message = FailAtWarnings;
  jpeg_create_decompress(&info);
  jpeg_progress_mgr progress = {};
  progress.progress_monitor = FailAtScans;
  info.progress = &progress;
  if (setjmp(errors.failed)) {
    jpeg_destroy_decompress(&info);
    std::free(row);
    return 1;
  }
  jpeg_mem_src(&info, const_cast<unsigned char*>(jpeg), size);
  jpeg_read_header(&info, TRUE);
  if (info.num_components != 1 && info.num_components != 3) Fail(reinterpret_cast<j_common_ptr>(&info));
  info.out_color_space = JCS_EXT_BGR;
  jpeg_start_decompress(&info);
  if (!IsWhole(&info)) Fail(reinterpret_cast<j_common_ptr>(&info));
  if (!height || !width || height > info.output_height || top > info.output_height - height ||
      width > info.output_width || left > info.output_width - width) {
    Fail(reinterpret_cast<j_common_ptr>(&info));
  }
  JDIMENSION first = left - std::min(left, kMargin);
  JDIMENSION count = std::min(info.output_width, left + width + kMargin) - first;
  jpeg_crop_scanline(&info, &first, &count);  // moves `first` to the left, where a block begins
  row = static_cast<unsigned char*>(std::malloc(3 * static_cast<size_t>(info.output_width)));
  if (!row) Fail(reinterpret_cast<j_common_ptr>(&info));
  if (top > kMargin) jpeg_skip_scanlines(&info, top - kMargin);
  while (info.output_scanline < top + height) {
    JSAMPROW rows[] = {row};
    JDIMENSION at = info.output_scanline;
    jpeg_read_scanlines(&info, rows, 1);
    if (at >= top) {
      std::memcpy(pixels + 3 * static_cast<size_t>(at - top) * width, row + 3 * (left - first), 3 * width);
    }
  }
  jpeg_destroy_decompress(&info);
  std::free(row);
  return 0;
}
