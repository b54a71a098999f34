/* model_style.c: defaults and merging of styles.
 *
 * Owns nothing. Any thread enters. Invariant: every field of a style stands in the list below.
 */
#include "model_style.h"

#define FIELDS(X)                                                                                  \
  X(chunks)                                                                                        \
  X(delay)                                                                                         \
  X(line_end)                                                                                      \
  X(bom)                                                                                           \
  X(comments)                                                                                      \
  X(space)                                                                                         \
  X(split_lines)                                                                                   \
  X(pings)                                                                                         \
  X(done)                                                                                          \
  X(finish)                                                                                        \
  X(usage)                                                                                         \
  X(framing)                                                                                       \
  X(piece)                                                                                         \
  X(split_utf8)                                                                                    \
  X(piece_delay)                                                                                   \
  X(gzip)                                                                                          \
  X(interim)                                                                                       \
  X(head_delay)                                                                                    \
  X(hang_up)

weft_model_style weft_model_style_none(void) {
  weft_model_style style;
#define CLEAR(field) style.field = -1;
  FIELDS(CLEAR)
  return style;
}

weft_model_style weft_model_style_merge(weft_model_style under, const weft_model_style *over) {
#define TAKE(field)                                                                                \
  if (over->field >= 0)                                                                            \
    under.field = over->field;
  FIELDS(TAKE)
  return under;
}

bool weft_model_style_is_none(const weft_model_style *style) {
#define CHECK(field)                                                                               \
  if (style->field >= 0)                                                                           \
    return false;
  FIELDS(CHECK)
  return true;
}
