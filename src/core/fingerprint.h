/* fingerprint.h: a number that tells secrets apart and does not tell them: SipHash-2-4 with a key
 * that the process draws once. Any thread; nothing blocks.
 */
#ifndef WEFT_CORE_FINGERPRINT_H
#define WEFT_CORE_FINGERPRINT_H

#include <stddef.h>
#include <stdint.h>

/* The same for the same bytes in this process, and in children of its forks; another in any other.
 */
uint64_t weft_fingerprint(const void *bytes, size_t size);
/* The same with a key of one's own. */
uint64_t weft_fingerprint_by(const uint64_t key[2], const void *bytes, size_t size);

#endif
