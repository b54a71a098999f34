/* model_random.h: the seeded random numbers of the model server (splitmix64).
 *
 * A state is one number and belongs to one thread at a time. The same seed gives the same row.
 */
#ifndef WEFT_TESTING_MODEL_RANDOM_H
#define WEFT_TESTING_MODEL_RANDOM_H

#include <stdint.h>

/* Uniform in [0, 1). */
static inline double weft_model_random(uint64_t *state) {
  uint64_t z = *state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return (double)(z >> 11) * 0x1p-53;
}

#endif
