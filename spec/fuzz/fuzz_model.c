/* fuzz_model.c: libFuzzer's target for the model server's parsers; see `make fuzz`. */
#include "../core/model_parsers.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  parse_anything(bytes, size);
  return 0;
}
