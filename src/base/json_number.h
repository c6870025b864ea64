/* json_number.h - the numbers of JSON; for json.c and json_number.c only.
 *
 * Inline, as vectors of embeddings are nearly all there is to parse.
 */
#ifndef ARN_BASE_JSON_NUMBER_H
#define ARN_BASE_JSON_NUMBER_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define EIGHT_AT_ONCE 1
#else
#define EIGHT_AT_ONCE 0
#endif

#define BYTES(c) (UINT64_C(0x0101010101010101) * (c))
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define COLD __attribute__((noinline, cold))

/* 10^19 - 1 fits in 64 bits. */
#define MANTISSA_DIGITS 19

/* Exponents of ten with a row in the table. */
#define POWER_MIN (-60)
#define POWER_MAX 40

typedef struct number {
    const char *digits; /* behind the sign */
    const char *end;    /* behind the number, or the byte that does not fit */
    uint64_t mantissa;  /* all digits, the point left out; wrong when overlong */
    int64_t exponent;   /* of ten, for the mantissa */
    int negative;
    int is_float;
    int overlong;
} number;

/* 10^(POWER_MIN + i), scaled by a power of two: 128 bits, the top one set, rounded down; but
 * up from 10^-27 to 10^-1, lest the quotients that are exact come out too small. */
extern const uint64_t arn__json_powers[POWER_MAX - POWER_MIN + 1][2];

/* p is at the 'e'. NULL: n->end should be a digit. */
const char *arn__json_exponent(const char *p, const char *end, number *n);

/* More digits than a mantissa has? */
int arn__json_overlong(const char *p, const char *end);

/* Of any number, without its sign. */
double arn__json_slow_double(const number *n);

static inline int is_digit(char c) {
    return (unsigned char)(c - '0') < 10;
}

#if EIGHT_AT_ONCE
static inline uint64_t load8(const char *p) {
    uint64_t x;

    memcpy(&x, p, sizeof(x));
    return x;
}

/* Index of the lowest byte marked in a mask of 0x80s. What lies above the lowest mark may be
 * wrong in all masks below, as carries go upwards. */
static inline unsigned first_mark(uint64_t mask) {
    return (unsigned)__builtin_ctzll(mask) >> 3;
}

static inline uint64_t marks_of(uint64_t x, unsigned char c) {
    uint64_t zero_here = x ^ BYTES(c);

    return (zero_here - BYTES(1)) & ~zero_here;
}

/* Eight digits as bytes 0..9, the most significant one lowest. */
static inline uint64_t eight_digits(uint64_t x) {
    x = x * 2561 >> 8;
    x = (x & UINT64_C(0x00FF00FF00FF00FF)) * 6553601 >> 16;
    return (x & UINT64_C(0x0000FFFF0000FFFF)) * UINT64_C(42949672960001) >> 32;
}
#endif

/* Reads on in *mantissa, which wraps. */
static inline const char *scan_digits(const char *p, const char *end, uint64_t *mantissa) {
    uint64_t m = *mantissa;

#if EIGHT_AT_ONCE
    static const uint32_t scale[8] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000};

    while (LIKELY(end - p >= 8)) {
        uint64_t x = load8(p) ^ BYTES('0');
        uint64_t others = ((x + BYTES(0x76)) | x) & BYTES(0x80);
        if (others != 0) {
            /* The rest, moved up behind leading zeros; none at all is shifted out in two steps. */
            unsigned n = first_mark(others);
            *mantissa = m * scale[n] + eight_digits(x << (56 - 8 * n) << 8);
            return p + n;
        }
        m = m * 100000000 + eight_digits(x);
        p += 8;
    }
#endif
    for (; p < end && is_digit(*p); p++)
        m = m * 10 + (uint64_t)(*p - '0');
    *mantissa = m;
    return p;
}

/* p < end is at a '-' or a digit. NULL, or what is wrong at n->end. */
static inline const char *scan_number(const char *p, const char *end, number *n) {
    const char *first;
    ptrdiff_t digits = 0;

    n->mantissa = 0;
    n->exponent = 0;
    n->is_float = n->overlong = 0;
    n->negative = *p == '-';
    n->digits = p += n->negative;
    if (p < end && *p == '0') {
        p++;
        if (UNLIKELY(p < end && is_digit(*p))) {
            n->end = p;
            return "a number with a leading zero";
        }
    } else {
        for (; p < end && is_digit(*p); p++)
            n->mantissa = n->mantissa * 10 + (uint64_t)(*p - '0');
        digits = p - n->digits;
        if (UNLIKELY(digits == 0)) {
            n->end = p;
            return "expecting a digit";
        }
    }
    if (p < end && *p == '.') {
        first = ++p;
        p = scan_digits(p, end, &n->mantissa);
        n->exponent = first - p;
        n->is_float = 1;
        digits += p - first;
        if (UNLIKELY(p == first)) {
            n->end = p;
            return "expecting a digit";
        }
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p = arn__json_exponent(p, end, n);
        n->is_float = 1;
        if (UNLIKELY(p == NULL))
            return "expecting a digit";
    }
    n->end = p;
    if (UNLIKELY(digits > MANTISSA_DIGITS))
        n->overlong = arn__json_overlong(n->digits, p);
    return NULL;
}

static inline double to_double(const number *n) {
#ifdef __SIZEOF_INT128__
    /* Eisel and Lemire, "Number parsing at a gigabyte per second": 64 bits of the mantissa times
     * as many of the power of ten, and 64 more of those when the rounding hangs on them. That is
     * always enough (Mushtak and Lemire, "Fast number parsing without fallback"). */
    __extension__ typedef unsigned __int128 uint128;

    if (LIKELY(n->mantissa != 0 && !n->overlong && n->exponent >= POWER_MIN &&
               n->exponent <= POWER_MAX)) {
        int q = (int)n->exponent;
        const uint64_t *power = arn__json_powers[q - POWER_MIN];
        int zeros = __builtin_clzll(n->mantissa);
        uint64_t w = n->mantissa << zeros;
        uint128 product = (uint128)w * power[0];
        uint64_t high, low, m, bits;
        int top, shift;
        double d;

        if (UNLIKELY((product >> 64 & 0x1ff) == 0x1ff))
            product += (uint128)w * power[1] >> 64;
        high = (uint64_t)(product >> 64);
        low = (uint64_t)product;
        top = (int)(high >> 63);
        shift = top + 64 - 52 - 3;
        m = high >> shift; /* 53 bits and one to round by */
        /* Exactly half way, which only these exponents can lead to: to even. */
        if (UNLIKELY(low <= 1 && q >= -4 && q <= 23 && (m & 3) == 1 && m << shift == high))
            m &= ~UINT64_C(1);
        m = (m + (m & 1)) >> 1;
        /* (217706 * q) >> 16 is floor(log2(10^q)). The top bit of m counts as one in the exponent,
         * as does its carry. */
        bits = (uint64_t)((217706 * q >> 16) + 63 + 1023 - 1 + top - zeros) << 52;
        bits += m;
        bits |= (uint64_t)n->negative << 63;
        memcpy(&d, &bits, sizeof(d));
        return d;
    }
#endif
    return n->negative ? -arn__json_slow_double(n) : arn__json_slow_double(n);
}

#endif /* ARN_BASE_JSON_NUMBER_H */
