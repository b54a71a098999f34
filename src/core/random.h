/* random.h: chance: for select's choice, for jitter. Not for secrets. Any thread; nothing blocks.
 */
#ifndef WEFT_CORE_RANDOM_H
#define WEFT_CORE_RANDOM_H

#include <stdint.h>

/* Any of all 64-bit numbers. */
uint64_t weft_random(void);
/* From 0 up to, but not, 1. */
double weft_random_fraction(void);
/* From now on the numbers are a sequence that the seed decides, for all threads together; 0: no
 * more. */
void weft_random_seed(uint64_t seed);

#endif
