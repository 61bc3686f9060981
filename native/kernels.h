// The loops of a step that libtorch has only in several passes, over plain memory. Each works on a stretch, so that a caller
// may divide the whole among threads; none knows of threads or tensors.
#pragma once

#include <cstddef>
#include <cstdint>

namespace latente {

// What one step of AdamW multiplies by.
struct AdamNumbers {
    float decay;       // 1 - lr * weight_decay
    float beta1;
    float beta2;
    float step;        // lr / (1 - beta1^steps)
    float correction;  // 1 / sqrt(1 - beta2^steps)
    float epsilon;
};

// Gives the sum of the squares of the gradient. What is added to what does not depend on the vectors of the CPU.
double adamw(float* weights, const float* gradient, float* first, float* second, std::size_t count, const AdamNumbers& with);

// What one step of another optimizer multiplies by.
struct RuleNumbers {
    float decay;  // 1 - lr * weight_decay
    float lr;
    float momentum;
    float beta1;
    float beta2;
    float epsilon;
    bool nesterov;
};

// Steps of the other optimizers (src/training/update_rules.rs), each in one pass. What a rule remembers is nowhere where it goes
// without.
void sgd(float* weights, const float* gradient, float* first, std::size_t count, const RuleNumbers& with);
void rmsprop(float* weights, const float* gradient, float* first, float* second, std::size_t count, const RuleNumbers& with);
void lion(float* weights, const float* gradient, float* first, std::size_t count, const RuleNumbers& with);

// The sum of squares. What is added to what does not depend on the vectors of the CPU.
double squares(const float* values, std::size_t count);

// Of one row: -log p of values `x` under logits (`bernoulli`) or else means of unit variance and without the constant; `factor`
// times its slope over them goes to `slope`.
float row_loss(const float* output, const float* x, float* slope, std::size_t columns, bool bernoulli, float factor);

// Of rows of a gradient of so many `columns`, those from column `from` on, up to COLUMNS of them: where `seen` is given, `out`, which
// may be the gradient itself, becomes what of it is let through, where that is above zero; where `sums` is given, it becomes the
// sums over rows of what is let through.
constexpr std::size_t COLUMNS = 64;
void let_through(const float* grad, const float* seen, float* out, float* sums, std::size_t rows, std::size_t columns, std::size_t from);

// out = values * factor.
void scale(const float* values, float factor, float* out, std::size_t count);

// out = (values - shifts) / scales, with `unit` held between 0 and 1.
void prepare(const float* values, const float* shifts, const float* scales, bool unit, float* out, std::size_t count);

// Draws of codes: rows of `both` are `latent` means, then as many logarithms of variances, which count within ±limit. z = mean +
// spread * noise; `divergence` becomes the sums over rows of KL(N(mean, spread²) || N(0, 1)) of each unit.
void gaussian_code(const float* both, const float* noise, float limit, float* z, float* spread, float* divergence, std::size_t rows,
                   std::size_t latent);

// The slope of both over `both`, of those that are given.
void gaussian_code_slope(const float* both, const float* noise, const float* spread, float limit, const float* z_grad,
                         const float* divergence_grad, float* slope, std::size_t rows, std::size_t latent);

// out = x + bias, and where `relu` is set nothing below zero stays; `out` may be `x`.
void add_bias(const float* x, const float* bias, float* out, std::size_t columns, bool relu);

// A window over images whose channels lie together: it covers kernel x kernel pixels of a wide image, and has a place for each pixel of
// a narrow one.
struct Window {
    std::int64_t wide_height, wide_width, wide_channels;
    std::int64_t narrow_height, narrow_width, narrow_channels;
    std::int64_t kernel, stride, padding;
};

// For each place of the window what it covers, zeros beyond the image: [places, kernel, kernel, wide channels].
void gather_patches(const float* wide, float* columns, const Window& window);

// Adds to an image what is given for each place of the window.
void scatter_patches(const float* columns, float* wide, const Window& window);

// `values` again and again until there are `total`.
void repeat(const float* values, std::size_t count, float* out, std::size_t total);

// Nothing below zero stays.
void clip(float* values, std::size_t count);

// out = grad where `seen` is above zero, else zero.
void let_above(const float* grad, const float* seen, float* out, std::size_t count);

// Adds rows of so many columns to `sums`, one after the other.
void add_rows(const float* values, std::size_t rows, std::size_t columns, float* sums);

}  // namespace latente
