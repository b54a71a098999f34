/* fuzz_stream.c: libFuzzer's target for what reads bytes of a stranger: the parser of server-sent
 * events and the splitter of lines. Both are compared with plain implementations, whole, byte by
 * byte and in pieces. The first two bytes of an input choose ceiling and pieces.
 *
 * usage: make fuzz [FUZZ_S=60] */
#include "../core/sse_streams.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2)
    return 0;
  size_t most = data[0] < 128 ? 0 : data[0] - 127u;
  uint64_t seed = data[1];
  size -= 2;
  char *stream = malloc(size + 1); /* terminated, as the plain parsers want it */
  memcpy(stream, data + 2, size);
  stream[size] = '\0';
  const char *problem = sse_check(stream, size, most, &seed);
  if (!problem)
    problem = lines_check(stream, size, most, &seed);
  if (problem) {
    fprintf(stderr, "%s\n", problem);
    abort();
  }
  free(stream);
  return 0;
}
