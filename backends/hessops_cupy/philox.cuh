// Entries of random probes, each a function of its row and of the sequence that it belongs to.
//
// Philox 4x64-10 (Salmon, Moraes, Dror & Shaw 2011) as numpy.random.Philox draws it. Every thread
// starts anew from the counter, so threads share nothing and any of them draws any entry.

struct Sequence {
    unsigned long long seed, purpose, term, probe;
};

__device__ inline unsigned long long random_word(
    const Sequence& sequence, unsigned long long part, unsigned long long index)
{
    const unsigned long long multiplier_a = 0xD2E7470EE14C6C93ULL;
    const unsigned long long multiplier_c = 0xCA5A826395121157ULL;
    // NumPy's generator counts one on before it draws.
    unsigned long long a = index / 4 + 1, b = part, c = sequence.term, d = sequence.purpose;
    unsigned long long left = sequence.seed, right = sequence.probe;
    for (int round = 0; round < 10; ++round) {
        const unsigned long long high_a = __umul64hi(multiplier_a, a), low_a = multiplier_a * a;
        const unsigned long long high_c = __umul64hi(multiplier_c, c), low_c = multiplier_c * c;
        a = high_c ^ b ^ left;
        b = low_c;
        c = high_a ^ d ^ right;
        d = low_a;
        left += 0x9E3779B97F4A7C15ULL;
        right += 0xBB67AE8584CAA73BULL;
    }
    const unsigned long long even = index & 2 ? c : a, odd = index & 2 ? d : b;
    return index & 1 ? odd : even;
}

// A sign from every bit of a word, the lowest first.
__device__ inline int random_sign(const Sequence& sequence, unsigned long long row)
{
    return 1 - 2 * (int)(random_word(sequence, 0, row / 64) >> (row % 64) & 1);
}

// The upper 52 bits, centred, so that neither 0 nor 1 is ever drawn.
__device__ inline double random_uniform(
    const Sequence& sequence, unsigned long long part, unsigned long long row)
{
    const unsigned long long bits = random_word(sequence, part, row) >> 12;
    return ((double)bits + 0.5) * (1.0 / 4503599627370496.0);  // 2^-52
}

__device__ inline double random_normal(
    const Sequence& sequence, unsigned long long part, unsigned long long row)
{
    return normcdfinv(random_uniform(sequence, part, row));
}

// A point of the unit circle, e^(2 pi i u).
__device__ inline void random_phase(
    const Sequence& sequence, unsigned long long row, double& cosine, double& sine)
{
    sincospi(2 * random_uniform(sequence, 0, row), &sine, &cosine);
}
