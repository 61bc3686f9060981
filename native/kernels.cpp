#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#include <immintrin.h>
#define LATENTE_X86 1
// The compiler makes a function once for each kind of CPU, and the program takes the best that it finds when it starts.
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

namespace latente {

namespace {

// While it lives, numbers too small to be normal count as zero on this thread: those take a CPU a hundred times as long, and
// what a unit that died remembers becomes ever smaller.
class Flushed {
   public:
#ifdef LATENTE_X86
    Flushed() : before(_mm_getcsr()) { _mm_setcsr(before | 0x8040); }
    ~Flushed() { _mm_setcsr(before); }
    Flushed(const Flushed&) = delete;
    Flushed& operator=(const Flushed&) = delete;

   private:
    unsigned before;
#endif
};

// Sums go into so many places, which are added up at the end: more than a vector of any CPU has.
constexpr std::size_t LANES = 16;

template <typename T>
inline T total(const T* lanes) {
    T sum[LANES];
    std::copy(lanes, lanes + LANES, sum);
    for (std::size_t half = LANES / 2; half > 0; half /= 2) {
        for (std::size_t lane = 0; lane < half; ++lane) sum[lane] += sum[lane + half];
    }
    return sum[0];
}

inline float bits(std::int32_t whole) {
    float value;
    std::memcpy(&value, &whole, sizeof value);
    return value;
}

// e^x for x of at most 0, off by less than 2 units in the last place; what is below e^-87 becomes that.
inline __attribute__((always_inline)) float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    // x = n ln 2 + rest, with ln 2 in two parts and |rest| at most ln 2 / 2. Adding 1.5 * 2^23 rounds to a whole number.
    const float shifted = x * 1.44269504088896341f + 12582912.0f;
    const float n = shifted - 12582912.0f;
    const float rest = (x - n * 0.693145751953125f) - n * 1.42860682030941723e-6f;
    float sum = 1.0f / 5040.0f;
    sum = sum * rest + 1.0f / 720.0f;
    sum = sum * rest + 1.0f / 120.0f;
    sum = sum * rest + 1.0f / 24.0f;
    sum = sum * rest + 1.0f / 6.0f;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
    return sum * bits((static_cast<std::int32_t>(n) + 127) << 23);
}

// One number of a bernoulli: H(x; p) = max(logit, 0) + log(1 + e) - x * logit with e = exp(-|logit|); its slope is σ(logit) - x.
inline __attribute__((always_inline)) float bernoulli_one(float logit, float x, float& slope) {
    const float size = std::fabs(logit);
    const float e = exponential(-size);
    // log(1 + e) = 2 artanh(s) with s = e / (2 + e), which is a third at most; and 1 / (1 + e) by the same division.
    const float one = 1.0f + e, two = 2.0f + e;
    const float inverse = 1.0f / (one * two);
    const float s = e * (inverse * one), square = s * s;
    float sum = 2.0f / 15.0f;
    sum = sum * square + 2.0f / 13.0f;
    sum = sum * square + 2.0f / 11.0f;
    sum = sum * square + 2.0f / 9.0f;
    sum = sum * square + 2.0f / 7.0f;
    sum = sum * square + 2.0f / 5.0f;
    sum = sum * square + 2.0f / 3.0f;
    sum = sum * square + 2.0f;
    const float sure = inverse * two;  // σ(|logit|)
    slope = (logit < 0.0f ? e * sure : sure) - x;
    return (logit > 0.0f ? logit : 0.0f) + s * sum - x * logit;
}

// Numbers that are found before they are added up.
constexpr std::size_t FOUND = 8 * LANES;

CLONES void bernoulli_row(const float* __restrict output, const float* __restrict x, float* __restrict slope, std::size_t columns,
                          float factor, float* __restrict lanes) {
    float each[FOUND];
    for (std::size_t start = 0; start < columns; start += FOUND) {
        const std::size_t count = std::min(FOUND, columns - start);
        for (std::size_t place = 0; place < count; ++place) {
            float steep;
            each[place] = bernoulli_one(output[start + place], x[start + place], steep);
            slope[start + place] = steep * factor;
        }
        std::size_t place = 0;
        for (; place + LANES <= count; place += LANES) {
            for (std::size_t lane = 0; lane < LANES; ++lane) lanes[lane] += each[place + lane];
        }
        for (std::size_t lane = 0; place + lane < count; ++lane) lanes[lane] += each[place + lane];
    }
}

CLONES void gaussian_row(const float* __restrict output, const float* __restrict x, float* __restrict slope, std::size_t columns,
                         float factor, float* __restrict lanes) {
    std::size_t column = 0;
    for (; column + LANES <= columns; column += LANES) {
        for (std::size_t lane = 0; lane < LANES; ++lane) {
            const float away = output[column + lane] - x[column + lane];
            slope[column + lane] = away * factor;
            lanes[lane] += away * away;
        }
    }
    for (std::size_t lane = 0; column + lane < columns; ++lane) {
        const float away = output[column + lane] - x[column + lane];
        slope[column + lane] = away * factor;
        lanes[lane] += away * away;
    }
}

// Sixteen floats, which the compiler keeps in as many registers as the CPU needs for them.
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));

// Some hundred squares at a time are added up in 32 bits, in four sums that do not wait for each other.
constexpr std::size_t SQUARES_AT_ONCE = 4 * LANES, SQUARES_BLOCK = 16 * SQUARES_AT_ONCE;

CLONES void square_lanes(const float* __restrict values, std::size_t count, double* __restrict lanes) {
    std::size_t place = 0;
    while (place + SQUARES_AT_ONCE <= count) {
        const std::size_t end = std::min(count, place + SQUARES_BLOCK);
        Lanes sums[4] = {};
        for (; place + SQUARES_AT_ONCE <= end; place += SQUARES_AT_ONCE) {
            Lanes read[4];
            std::memcpy(read, values + place, sizeof read);
            for (int part = 0; part < 4; ++part) sums[part] += read[part] * read[part];
        }
        const Lanes sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        for (std::size_t lane = 0; lane < LANES; ++lane) lanes[lane] += static_cast<double>(sum[lane]);
    }
    for (; place < count; ++place) lanes[place % LANES] += static_cast<double>(values[place]) * static_cast<double>(values[place]);
}

CLONES void adamw_plainly(float* __restrict weights, const float* __restrict gradient, float* __restrict first,
                          float* __restrict second, std::size_t count, const AdamNumbers& with) {
    const AdamNumbers n = with;
    for (std::size_t place = 0; place < count; ++place) {
        const float g = gradient[place];
        const float m = first[place] + (1.0f - n.beta1) * (g - first[place]);
        const float v = n.beta2 * second[place] + (1.0f - n.beta2) * g * g;
        first[place] = m;
        second[place] = v;
        weights[place] = weights[place] * n.decay - n.step * (m / (std::sqrt(v) * n.correction + n.epsilon));
    }
}

CLONES void sgd_plainly(float* __restrict weights, const float* __restrict gradient, std::size_t count, const RuleNumbers& with) {
    const RuleNumbers n = with;
    for (std::size_t place = 0; place < count; ++place) weights[place] = weights[place] * n.decay - n.lr * gradient[place];
}

CLONES void sgd_with_momentum(float* __restrict weights, const float* __restrict gradient, float* __restrict first, std::size_t count,
                              const RuleNumbers& with) {
    const RuleNumbers n = with;
    const float of_gradient = n.nesterov ? 1.0f : 0.0f, of_first = n.nesterov ? n.momentum : 1.0f;
    for (std::size_t place = 0; place < count; ++place) {
        const float m = n.momentum * first[place] + gradient[place];
        first[place] = m;
        weights[place] = weights[place] * n.decay - n.lr * (of_gradient * gradient[place] + of_first * m);
    }
}

CLONES void rmsprop_plainly(float* __restrict weights, const float* __restrict gradient, float* __restrict second, std::size_t count,
                            const RuleNumbers& with) {
    const RuleNumbers n = with;
    for (std::size_t place = 0; place < count; ++place) {
        const float g = gradient[place], v = n.beta2 * second[place] + (1.0f - n.beta2) * g * g;
        second[place] = v;
        weights[place] = weights[place] * n.decay - n.lr * (g / (std::sqrt(v) + n.epsilon));
    }
}

CLONES void rmsprop_with_momentum(float* __restrict weights, const float* __restrict gradient, float* __restrict first,
                                  float* __restrict second, std::size_t count, const RuleNumbers& with) {
    const RuleNumbers n = with;
    for (std::size_t place = 0; place < count; ++place) {
        const float g = gradient[place], v = n.beta2 * second[place] + (1.0f - n.beta2) * g * g;
        const float m = n.momentum * first[place] + g / (std::sqrt(v) + n.epsilon);
        second[place] = v;
        first[place] = m;
        weights[place] = weights[place] * n.decay - n.lr * m;
    }
}

CLONES void lion_plainly(float* __restrict weights, const float* __restrict gradient, float* __restrict first, std::size_t count,
                         const RuleNumbers& with) {
    const RuleNumbers n = with;
    for (std::size_t place = 0; place < count; ++place) {
        const float m = first[place], change = gradient[place] - m, direction = m + (1.0f - n.beta1) * change;
        const float sign = (direction > 0.0f ? 1.0f : 0.0f) - (direction < 0.0f ? 1.0f : 0.0f);
        weights[place] = weights[place] * n.decay - n.lr * sign;
        first[place] = m + (1.0f - n.beta2) * change;
    }
}

#ifdef LATENTE_X86
// A root and a division of sixteen numbers take longer than all the rest. Both are made from estimates of 14 bits that one step
// of Newton's method brings to less than 2 units in the last place.
struct Adam512 {
    __m512 decay, step, taken1, taken2, beta2, correction, epsilon, least, half, three_halves, two;

    // Moves 16 numbers at `place`, as far as they are there, and gives their gradient.
    __attribute__((target("avx512f"), always_inline)) inline __m512 move(float* weights, const float* gradient, float* first,
                                                                         float* second, std::size_t place, __mmask16 there) const {
        const __m512 g = _mm512_maskz_loadu_ps(there, gradient + place);
        __m512 m = _mm512_maskz_loadu_ps(there, first + place);
        __m512 v = _mm512_maskz_loadu_ps(there, second + place);
        __m512 w = _mm512_maskz_loadu_ps(there, weights + place);
        m = _mm512_fmadd_ps(taken1, _mm512_sub_ps(g, m), m);
        v = _mm512_fmadd_ps(_mm512_mul_ps(taken2, g), g, _mm512_mul_ps(beta2, v));
        _mm512_mask_storeu_ps(first + place, there, m);
        _mm512_mask_storeu_ps(second + place, there, v);
        // No product on the way to the root may leave the range of normal numbers.
        const __m512 held = _mm512_max_ps(v, least);
        __m512 root = _mm512_rsqrt14_ps(held);
        root = _mm512_mul_ps(root, _mm512_fnmadd_ps(_mm512_mul_ps(half, held), _mm512_mul_ps(root, root), three_halves));
        const __m512 spread = _mm512_fmadd_ps(_mm512_mul_ps(v, root), correction, epsilon);
        __m512 inverse = _mm512_rcp14_ps(spread);
        inverse = _mm512_mul_ps(inverse, _mm512_fnmadd_ps(spread, inverse, two));
        w = _mm512_fmadd_ps(_mm512_mul_ps(step, m), inverse, _mm512_mul_ps(w, decay));
        _mm512_mask_storeu_ps(weights + place, there, w);
        return g;
    }
};

// The squares are added up as `square_lanes` does it.
__attribute__((target("avx512f"))) double adamw_avx512(float* weights, const float* gradient, float* first, float* second,
                                                       std::size_t count, const AdamNumbers& with) {
    const Adam512 adam{_mm512_set1_ps(with.decay), _mm512_set1_ps(-with.step), _mm512_set1_ps(1.0f - with.beta1),
                       _mm512_set1_ps(1.0f - with.beta2), _mm512_set1_ps(with.beta2), _mm512_set1_ps(with.correction),
                       _mm512_set1_ps(with.epsilon), _mm512_set1_ps(1e-36f), _mm512_set1_ps(0.5f), _mm512_set1_ps(1.5f),
                       _mm512_set1_ps(2.0f)};
    double lanes[LANES] = {};
    std::size_t place = 0;
    while (place + SQUARES_AT_ONCE <= count) {
        const std::size_t end = std::min(count, place + SQUARES_BLOCK);
        __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        for (; place + SQUARES_AT_ONCE <= end; place += SQUARES_AT_ONCE) {
#pragma GCC unroll 4
            for (std::size_t part = 0; part < 4; ++part) {
                const __m512 g = adam.move(weights, gradient, first, second, place + part * LANES, 0xffff);
                sums[part] = _mm512_fmadd_ps(g, g, sums[part]);
            }
        }
        float sum[LANES];
        _mm512_storeu_ps(sum, _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
        for (std::size_t lane = 0; lane < LANES; ++lane) lanes[lane] += static_cast<double>(sum[lane]);
    }
    for (; place < count; place += LANES) {
        const std::size_t left = std::min(LANES, count - place);
        float g[LANES];
        _mm512_storeu_ps(g, adam.move(weights, gradient, first, second, place, static_cast<__mmask16>((1u << left) - 1)));
        for (std::size_t lane = 0; lane < left; ++lane) lanes[lane] += static_cast<double>(g[lane]) * static_cast<double>(g[lane]);
    }
    return total(lanes);
}
#endif

}  // namespace

double adamw(float* weights, const float* gradient, float* first, float* second, std::size_t count, const AdamNumbers& with) {
    const Flushed flushed;
#ifdef LATENTE_X86
    // The estimates have no value where the divisor leaves the range of normal numbers, as a very small epsilon may have it.
    static const bool wide = __builtin_cpu_supports("avx512f");
    if (wide && with.epsilon > 1e-30f) return adamw_avx512(weights, gradient, first, second, count, with);
#endif
    const double sum = squares(gradient, count);
    adamw_plainly(weights, gradient, first, second, count, with);
    return sum;
}

void sgd(float* weights, const float* gradient, float* first, std::size_t count, const RuleNumbers& with) {
    const Flushed flushed;
    if (first == nullptr) sgd_plainly(weights, gradient, count, with);
    else sgd_with_momentum(weights, gradient, first, count, with);
}

void rmsprop(float* weights, const float* gradient, float* first, float* second, std::size_t count, const RuleNumbers& with) {
    const Flushed flushed;
    if (first == nullptr) rmsprop_plainly(weights, gradient, second, count, with);
    else rmsprop_with_momentum(weights, gradient, first, second, count, with);
}

void lion(float* weights, const float* gradient, float* first, std::size_t count, const RuleNumbers& with) {
    const Flushed flushed;
    lion_plainly(weights, gradient, first, count, with);
}

double squares(const float* values, std::size_t count) {
    const Flushed flushed;
    double lanes[LANES] = {};
    square_lanes(values, count, lanes);
    return total(lanes);
}

float row_loss(const float* output, const float* x, float* slope, std::size_t columns, bool bernoulli, float factor) {
    const Flushed flushed;
    float lanes[LANES] = {};
    if (bernoulli) {
        bernoulli_row(output, x, slope, columns, factor, lanes);
        return total(lanes);
    }
    gaussian_row(output, x, slope, columns, factor, lanes);
    return 0.5f * total(lanes);
}

CLONES void let_through(const float* grad, const float* seen, float* out, float* sums, std::size_t rows, std::size_t columns,
                        std::size_t from) {
    const std::size_t count = std::min(COLUMNS, columns - from);
    float sum[COLUMNS] = {};
    for (std::size_t row = 0; row < rows; ++row) {
        const float* line = grad + row * columns + from;
        if (seen != nullptr) {
            const float* above = seen + row * columns + from;
            float* left = out + row * columns + from;
            // The gradient may be written in its own place, and never in another.
#pragma GCC ivdep
            for (std::size_t column = 0; column < count; ++column) left[column] = above[column] <= 0.0f ? 0.0f : line[column];
            line = left;
        }
        if (sums != nullptr) {
#pragma GCC ivdep
            for (std::size_t column = 0; column < count; ++column) sum[column] += line[column];
        }
    }
    if (sums != nullptr) std::copy(sum, sum + count, sums + from);
}

CLONES void scale(const float* __restrict values, float factor, float* __restrict out, std::size_t count) {
    for (std::size_t place = 0; place < count; ++place) out[place] = values[place] * factor;
}

CLONES void prepare(const float* __restrict values, const float* __restrict shifts, const float* __restrict scales, bool unit,
                    float* __restrict out, std::size_t count) {
    if (unit) {
        for (std::size_t place = 0; place < count; ++place) {
            const float scaled = (values[place] - shifts[place]) / scales[place];
            out[place] = scaled < 0.0f ? 0.0f : scaled > 1.0f ? 1.0f : scaled;
        }
    } else {
        for (std::size_t place = 0; place < count; ++place) out[place] = (values[place] - shifts[place]) / scales[place];
    }
}

CLONES void gaussian_code(const float* __restrict both, const float* __restrict noise, float limit, float* __restrict z,
                          float* __restrict spread, float* __restrict divergence, std::size_t rows, std::size_t latent) {
    std::fill(divergence, divergence + latent, 0.0f);
    for (std::size_t row = 0; row < rows; ++row) {
        const float *mean = both + row * 2 * latent, *logs = mean + latent;
        for (std::size_t unit = 0; unit < latent; ++unit) {
            const std::size_t place = row * latent + unit;
            const float log_variance = logs[unit] < -limit ? -limit : logs[unit] > limit ? limit : logs[unit];
            const float s = exponential(0.5f * log_variance);
            spread[place] = s;
            z[place] = mean[unit] + s * noise[place];
            divergence[unit] += 0.5f * (mean[unit] * mean[unit] + s * s - log_variance - 1.0f);
        }
    }
}

CLONES void gaussian_code_slope(const float* __restrict both, const float* __restrict noise, const float* __restrict spread,
                                float limit, const float* __restrict z_grad, const float* __restrict divergence_grad,
                                float* __restrict slope, std::size_t rows, std::size_t latent) {
    for (std::size_t row = 0; row < rows; ++row) {
        const float *mean = both + row * 2 * latent, *logs = mean + latent;
        float *mean_slope = slope + row * 2 * latent, *log_slope = mean_slope + latent;
        for (std::size_t unit = 0; unit < latent; ++unit) {
            const std::size_t place = row * latent + unit;
            const float s = spread[place], drawn = z_grad != nullptr ? z_grad[place] : 0.0f;
            const float pressed = divergence_grad != nullptr ? divergence_grad[unit] : 0.0f;
            const bool held = logs[unit] < -limit || logs[unit] > limit;
            mean_slope[unit] = drawn + pressed * mean[unit];
            log_slope[unit] = held ? 0.0f : 0.5f * (drawn * noise[place] * s + pressed * (s * s - 1.0f));
        }
    }
}

CLONES void add_bias(const float* x, const float* bias, float* out, std::size_t columns, bool relu) {
    if (relu) {
        // Written so that a number that is none stays one.
#pragma GCC ivdep
        for (std::size_t column = 0; column < columns; ++column) {
            const float sum = x[column] + bias[column];
            out[column] = sum < 0.0f ? 0.0f : sum;
        }
    } else {
#pragma GCC ivdep
        for (std::size_t column = 0; column < columns; ++column) out[column] = x[column] + bias[column];
    }
}

namespace {

// What of a line of the window at `start` lies within a wide image: from which pixel of the window on, and up to which.
struct Within {
    std::int64_t from, to;
    Within(std::int64_t start, const Window& window)
        : from(std::max<std::int64_t>(0, -start)), to(std::max(from, std::min(window.kernel, window.wide_width - start))) {}
};

// `one(column, line, within)` for each line of each place of the window; `line` is where it would begin in the image, nowhere where it
// lies above or below.
template <typename One>
inline __attribute__((always_inline)) void each_line(const Window& window, One one) {
    const std::int64_t width = window.kernel * window.wide_channels;
    std::int64_t column = 0;
    for (std::int64_t top = -window.padding, row = 0; row < window.narrow_height; ++row, top += window.stride) {
        for (std::int64_t left = -window.padding, place = 0; place < window.narrow_width; ++place, left += window.stride) {
            const Within within(left, window);
            for (std::int64_t line = top; line < top + window.kernel; ++line, column += width) {
                const bool there = line >= 0 && line < window.wide_height;
                one(column, (line * window.wide_width + left) * window.wide_channels, there ? within : Within(window.wide_width, window));
            }
        }
    }
}

}  // namespace

CLONES void gather_patches(const float* wide, float* columns, const Window& window) {
    const std::int64_t channels = window.wide_channels, width = window.kernel * channels;
    each_line(window, [&](std::int64_t column, std::int64_t line, const Within& within) {
        const std::int64_t from = within.from * channels, to = within.to * channels;
        float* out = columns + column;
        for (std::int64_t place = 0; place < from; ++place) out[place] = 0.0f;
        for (std::int64_t place = from; place < to; ++place) out[place] = wide[line + place];
        for (std::int64_t place = to; place < width; ++place) out[place] = 0.0f;
    });
}

CLONES void scatter_patches(const float* columns, float* wide, const Window& window) {
    const std::int64_t channels = window.wide_channels;
    each_line(window, [&](std::int64_t column, std::int64_t line, const Within& within) {
        float* out = wide + line;
        const float* given = columns + column;
#pragma GCC ivdep
        for (std::int64_t place = within.from * channels; place < within.to * channels; ++place) out[place] += given[place];
    });
}

void repeat(const float* values, std::size_t count, float* out, std::size_t total) {
    if (count == 1) {
        std::fill_n(out, total, values[0]);
        return;
    }
    for (std::size_t place = 0; place < total; place += count) std::copy_n(values, std::min(count, total - place), out + place);
}

CLONES void clip(float* values, std::size_t count) {
    for (std::size_t place = 0; place < count; ++place) values[place] = values[place] <= 0.0f ? 0.0f : values[place];
}

CLONES void let_above(const float* __restrict grad, const float* __restrict seen, float* __restrict out, std::size_t count) {
    for (std::size_t place = 0; place < count; ++place) out[place] = seen[place] <= 0.0f ? 0.0f : grad[place];
}

CLONES void add_rows(const float* __restrict values, std::size_t rows, std::size_t columns, float* __restrict sums) {
    if (columns == 1) {
        float lanes[LANES] = {};
        std::size_t row = 0;
        for (; row + LANES <= rows; row += LANES) {
            for (std::size_t lane = 0; lane < LANES; ++lane) lanes[lane] += values[row + lane];
        }
        for (std::size_t lane = 0; row + lane < rows; ++lane) lanes[lane] += values[row + lane];
        sums[0] += total(lanes);
        return;
    }
    for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t column = 0; column < columns; ++column) sums[column] += values[row * columns + column];
    }
}

}  // namespace latente
