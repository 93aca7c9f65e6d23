/* Foreign bytes made safe for a terminal. Pure: nothing to lose in a crash. */
#include "broker/cli/safe_text.h"

#include <inttypes.h>

/* Code points that are not shown as what they are: first and last of each range. */
static const struct {
  uint32_t first, last;
} hidden[] = {
    {0x00, 0x1F},     {0x7F, 0x9F},     {0xAD, 0xAD},     {0x61C, 0x61C},   {0x180E, 0x180E},   {0x200B, 0x200F},
    {0x2028, 0x202E}, {0x2060, 0x206F}, {0xFEFF, 0xFEFF}, {0xFFF9, 0xFFFB}, {0xE0000, 0xE007F},
};

static bool is_hidden(uint32_t c) {
  for (size_t i = 0; i < TXB_ARRAY_SIZE(hidden); i++)
    if (c >= hidden[i].first && c <= hidden[i].last)
      return true;
  return false;
}

/* The code point of a well-formed character of `size` bytes. */
static uint32_t code_point(const unsigned char *bytes, size_t size) {
  static const unsigned char lead[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
  uint32_t c = bytes[0] & lead[size];
  for (size_t i = 1; i < size; i++)
    c = c << 6 | (bytes[i] & 0x3F);
  return c;
}

static void add_escaped(struct txb_buffer *out, uint32_t c) {
  if (c < 0x100)
    txb_buffer_addf(out, "\\x%02" PRIx32, c);
  else
    txb_buffer_addf(out, c < 0x10000 ? "\\u%04" PRIx32 : "\\U%08" PRIx32, c);
}

void txb_safe_add(struct txb_buffer *out, struct txb_slice text, size_t width_max, int lines) {
  const unsigned char *bytes = text.data;
  size_t shown = 0;
  for (size_t i = 0; i < text.size; shown++) {
    if (width_max > 0 && shown == width_max) {
      txb_buffer_add_text(out, "...");
      return;
    }
    size_t size = txb_utf8_character(txb_slice_of(bytes + i, text.size - i));
    uint32_t c = size == 0 ? bytes[i] : code_point(bytes + i, size);
    bool line = lines == TXB_SAFE_LINES && (c == '\n' || c == '\t');
    if (size == 0 || (is_hidden(c) && !line))
      add_escaped(out, c);
    else
      txb_buffer_add(out, bytes + i, size);
    i += size == 0 ? 1 : size;
  }
}

void txb_safe_add_hex(struct txb_buffer *out, struct txb_slice bytes, size_t size_max, int indent) {
  const unsigned char *data = bytes.data;
  size_t size = size_max > 0 && bytes.size > size_max ? size_max : bytes.size;
  for (size_t at = 0; at < size; at += 16) {
    size_t count = size - at < 16 ? size - at : 16;
    txb_buffer_addf(out, "%*s%08zx ", indent, "", at);
    for (size_t i = 0; i < 16; i++)
      if (i < count)
        txb_buffer_addf(out, "%s%02x", i == 8 ? "  " : " ", data[at + i]);
      else
        txb_buffer_add_text(out, i == 8 ? "    " : "   ");
    txb_buffer_add_text(out, "  |");
    for (size_t i = 0; i < count; i++)
      txb_buffer_addf(out, "%c", data[at + i] >= 0x20 && data[at + i] < 0x7F ? data[at + i] : '.');
    txb_buffer_add_text(out, "|\n");
  }
  if (size < bytes.size)
    txb_buffer_addf(out, "%*s... and %zu bytes more\n", indent, "", bytes.size - size);
}
