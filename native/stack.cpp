#include "stack.h"

#include "half.h"
#include "kernels.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <limits>

#if defined(__linux__)
// What libtorch multiplies matrices by, where it was built with a library that has this name: called by itself it is spared what
// surrounds every operation, which takes longer than a small product.
extern "C" __attribute__((weak)) void sgemm_(const char* turn_a, const char* turn_b, const int* m, const int* n, const int* k,
                                             const float* alpha, const float* a, const int* line_a, const float* b, const int* line_b,
                                             const float* beta, float* c, const int* line_c);
#define HAS_SGEMM (sgemm_ != nullptr)
#else
#define HAS_SGEMM false
#endif

namespace latente {

namespace {

// Rows whose sums are taken together; the sums of such stretches are added up in their order.
constexpr std::int64_t STRETCH = 512;

// libtorch's constants of the self-normalising unit (Klambauer et al., 2017).
constexpr double selu_alpha = 1.6732632423543772848170429916717;
constexpr double selu_scale = 1.0507009873554804934193349852946;

thread_local const Destinations* destinations = nullptr;

// Whether the slope is found from the values before the function; otherwise from those after it.
bool looks_before(std::int64_t function) { return function == gelu || function == silu || function == softplus; }

Tensor apply_function(std::int64_t function, const Tensor& x) {
    switch (function) {
        case sigmoid: return at::sigmoid(x);
        case tanh: return at::tanh(x);
        case relu: return at::relu(x);
        case leaky_relu: return at::leaky_relu(x);
        case elu: return at::elu(x);
        case selu: return at::selu(x);
        case gelu: return at::gelu(x);
        case silu: return at::silu(x);
        case softplus: return at::softplus(x);
    }
    TORCH_CHECK(false, "no such function: ", function);
}

// The same, in the place of `x` where the values before are not wanted any more.
Tensor replace_by_function(std::int64_t function, Tensor& x) {
    switch (function) {
        case sigmoid: return at::sigmoid_(x);
        case tanh: return at::tanh_(x);
        case relu: return at::relu_(x);
        case leaky_relu: return at::leaky_relu_(x);
        case elu: return at::elu_(x);
        case selu: return at::selu_(x);
        default: return apply_function(function, x);
    }
}

Tensor slope(std::int64_t function, const Tensor& grad, const Tensor& seen) {
    switch (function) {
        case sigmoid: return at::sigmoid_backward(grad, seen);
        case tanh: return at::tanh_backward(grad, seen);
        case relu: return at::threshold_backward(grad, seen, 0);
        case leaky_relu: return at::leaky_relu_backward(grad, seen, 0.01, true);
        case elu: return at::elu_backward(grad, 1.0, 1.0, 1.0, true, seen);
        case selu: return at::elu_backward(grad, selu_alpha, selu_scale, 1.0, true, seen);
        case gelu: return at::gelu_backward(grad, seen);
        case silu: return at::silu_backward(grad, seen);
        case softplus: return at::softplus_backward(grad, seen, 1, 20);
    }
    TORCH_CHECK(false, "no such function: ", function);
}

// out = a b, of matrices of which each may be turned first; with `add` it is added to what is there. All are plain.
void product(const Tensor& a, bool turn_a, const Tensor& b, bool turn_b, const Tensor& out, bool add) {
    const ProductSize size{a.size(turn_a ? 1 : 0), b.size(turn_b ? 0 : 1), a.size(turn_a ? 0 : 1)};
    TORCH_CHECK(b.size(turn_b ? 1 : 0) == size.depth && out.size(0) == size.rows && out.size(1) == size.columns, "matrices of ",
                a.sizes(), " and ", b.sizes(), " do not make one of ", out.sizes());
    if (has_products() && std::min({size.rows, size.columns, size.depth}) > 0) {
        product(a.data_ptr<float>(), turn_a, b.data_ptr<float>(), turn_b, out.data_ptr<float>(), size, add);
        return;
    }
    const Tensor left = turn_a ? a.t() : a, right = turn_b ? b.t() : b;
    if (add) {
        out.addmm_(left, right);
    } else {
        Tensor place = out;
        at::mm_out(place, left, right);
    }
}

}  // namespace

bool has_products() { return HAS_SGEMM; }

void product(const float* a, bool turn_a, const float* b, bool turn_b, float* out, ProductSize size, bool add) {
#if defined(__linux__)
    TORCH_CHECK(std::max({size.rows, size.columns, size.depth}) <= std::numeric_limits<int>::max(), "a matrix of ", size.rows, " x ",
                size.columns, " x ", size.depth, " is too large for one product");
    // Lines are columns there: what comes out is the turned product, of the turned matrices in their other order.
    const char own = 'N', turned = 'T';
    const int rows = static_cast<int>(size.columns), columns = static_cast<int>(size.rows), depth = static_cast<int>(size.depth);
    const int line_b = turn_b ? depth : rows, line_a = turn_a ? columns : depth;
    const float one = 1, beta = add ? 1 : 0;
    sgemm_(turn_b ? &turned : &own, turn_a ? &turned : &own, &rows, &columns, &depth, &one, b, &line_b, a, &line_a, &beta, out, &rows);
#else
    TORCH_CHECK(false, "there is no function for products here");
#endif
}

bool plain(const Tensor& tensor) {
    return !pretends_elsewhere() && tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.layout() == at::kStrided && tensor.is_contiguous();
}

std::int64_t rows_at_once(std::int64_t columns) { return std::max<std::int64_t>(1, 2 * BLOCK / std::max<std::int64_t>(1, columns)); }

void add_bias(const Tensor& x, const Tensor& bias, const Tensor& out, bool relu) {
    const std::int64_t columns = x.size(1);
    const float *values = x.data_ptr<float>(), *added = bias.data_ptr<float>();
    float* sums = out.data_ptr<float>();
    at::parallel_for(0, x.size(0), rows_at_once(columns), [&](std::int64_t start, std::int64_t end) {
        for (std::int64_t row = start; row < end; ++row) {
            add_bias(values + row * columns, added, sums + row * columns, columns, relu);
        }
    });
}

void let_through(const Tensor& grad, const Tensor& seen, const Tensor& out, const Tensor& sums) {
    const std::int64_t rows = grad.size(0), columns = grad.size(1), width = COLUMNS;
    const std::int64_t stretches = std::max<std::int64_t>(1, (rows + STRETCH - 1) / STRETCH), parts = (columns + width - 1) / width;
    const float* values = grad.data_ptr<float>();
    const float* above = seen.defined() ? seen.data_ptr<float>() : nullptr;
    float* left = seen.defined() ? out.data_ptr<float>() : nullptr;
    float* summed = sums.defined() ? sums.data_ptr<float>() : nullptr;
    std::vector<float> partial(summed != nullptr && stretches > 1 ? stretches * columns : 0);
    const std::int64_t numbers = std::max<std::int64_t>(1, std::min(rows, STRETCH) * std::min(columns, width));
    at::parallel_for(0, stretches * parts, std::max<std::int64_t>(1, 2 * BLOCK / numbers), [&](std::int64_t start, std::int64_t end) {
        for (std::int64_t one = start; one < end; ++one) {
            const std::int64_t stretch = one / parts, row = stretch * STRETCH, place = row * columns;
            float* to = partial.empty() ? summed : partial.data() + stretch * columns;
            let_through(values + place, above ? above + place : nullptr, left ? left + place : nullptr, to,
                        std::min(STRETCH, rows - row), columns, one % parts * width);
        }
    });
    if (partial.empty()) return;
    for (std::int64_t column = 0; column < columns; ++column) {
        float sum = 0;
        for (std::int64_t stretch = 0; stretch < stretches; ++stretch) sum += partial[stretch * columns + column];
        summed[column] = sum;
    }
}

Destinations::Destinations(void* const* leaves, void* const* views, std::size_t count)
    : leaves(leaves), views(views), count(count), before(destinations) {
    destinations = this;
}

Destinations::~Destinations() { destinations = before; }

const Tensor* Destinations::of(const Tensor& leaf) const {
    for (std::size_t index = 0; index < count; ++index) {
        if (as(leaves[index]).is_same(leaf)) return &as(views[index]);
    }
    return nullptr;
}

bool kept(const Tensor& leaf, c10::function_ref<void(Tensor& place, bool first)> write) {
    if (destinations == nullptr) return false;
    const Tensor* view = destinations->of(leaf);
    if (view == nullptr) return false;
    Tensor& grad = leaf.mutable_grad();
    const bool first = !grad.defined();
    if (first) grad = *view;
    write(grad, first);
    return true;
}

Tensor Stack::forward(const Tensor& input, bool keeps) {
    ours = plain(input) && input.dim() == 2 && std::all_of(weights.begin(), weights.end(), plain) &&
           std::all_of(biases.begin(), biases.end(), plain);
    tiled = half && ours && has_half_products();
    const bool cast = half && !tiled;
    ours = ours && !cast;
    // Whoever asks for no gradient keeps none of what lies between.
    auto keep = [keeps](std::vector<Tensor>& all, const Tensor& tensor) {
        if (keeps) all.push_back(tensor);
    };
    if (keeps) {
        x = input;
        inputs.reserve(weights.size());
        seen.reserve(weights.size());
    }
    Tensor result = cast ? input.to(at::kBFloat16) : input;
    keep(inputs, result);
    for (std::size_t layer = 0; layer < weights.size(); ++layer) {
        const bool functions = has_function(layer), done = ours && functions && function == relu;
        const Tensor &weight = weights[layer], &bias = biases[layer];
        if (ours) {
            TORCH_CHECK(result.size(1) == weight.size(1) && bias.numel() == weight.size(0), "a layer of ", weight.size(1),
                        " inputs is given ", result.size(1), ", or has ", bias.numel(), " biases for ", weight.size(0), " outputs");
            Tensor out = at::empty({result.size(0), weight.size(0)}, result.options());
            if (tiled) {
                half_forward(result.data_ptr<float>(), weight.data_ptr<float>(), bias.data_ptr<float>(), done, out.data_ptr<float>(),
                             {result.size(0), weight.size(1), weight.size(0)});
            } else {
                product(result, false, weight, true, out, false);
                add_bias(out, bias, out, done);
            }
            result = std::move(out);
        } else {
            result = cast ? at::addmm(bias.to(at::kBFloat16), result, weight.to(at::kBFloat16).t())
                          : at::addmm(bias, result, weight.t());
        }
        if (layer + 1 == weights.size()) break;
        const bool before = functions && looks_before(function);
        if (before) keep(seen, result);
        if (functions && !done) result = replace_by_function(function, result);
        if (!before) keep(seen, functions ? result : Tensor());
        keep(inputs, result);
    }
    return cast ? result.to(at::kFloat) : result;
}

Tensor Stack::by_operations(const Tensor& input) const {
    Tensor result = input;
    for (std::size_t layer = 0; layer < weights.size(); ++layer) {
        result = at::linear(result, weights[layer], biases[layer]);
        if (has_function(layer)) result = apply_function(function, result);
    }
    return result;
}

std::vector<Tensor> Stack::backward(const Tensor& given, c10::function_ref<bool(std::size_t)> wanted) const {
    const std::size_t layers = weights.size();
    std::vector<Tensor> found(1 + 2 * layers);
    const bool cast = half && !tiled;
    Tensor grad = cast ? given.to(at::kBFloat16) : given.contiguous();
    Tensor closed;  // what the last function gave, where the gradient has not come through it yet
    for (std::size_t layer = layers; layer-- > 0;) {
        const LayerSize size{grad.size(0), weights[layer].size(1), weights[layer].size(0)};
        if (wanted(1 + layers + layer)) {
            auto write = [&](Tensor& place, bool first) {
                if (ours) {
                    Tensor sums = first ? place : at::empty_like(place);
                    let_through(grad, closed, grad, sums);
                    closed.reset();
                    if (!first) place.add_(sums);
                } else if (first) {
                    at::sum_out(place, grad, {0}, false, at::kFloat);
                } else {
                    place.add_(at::sum(grad, {0}, false, at::kFloat));
                }
            };
            if (!kept(biases[layer], write)) {
                found[1 + layers + layer] = at::empty_like(biases[layer]);
                write(found[1 + layers + layer], true);
            }
        }
        if (closed.defined()) let_through(grad, closed, grad, {});
        closed.reset();
        if (wanted(1 + layer)) {
            const Tensor& input = inputs[layer];
            auto write = [&](Tensor& place, bool first) {
                if (tiled) {
                    half_slope(grad.data_ptr<float>(), input.data_ptr<float>(), place.data_ptr<float>(), size, !first);
                } else if (ours) {
                    product(grad, true, input, false, place, !first);
                } else if (cast) {
                    const Tensor change = at::mm(grad.t(), input);
                    if (first) place.copy_(change); else place.add_(change);
                } else if (first) {
                    at::mm_out(place, grad.t(), input);
                } else {
                    place.addmm_(grad.t(), input);
                }
            };
            if (!kept(weights[layer], write)) {
                found[1 + layer] = at::empty_like(weights[layer]);
                write(found[1 + layer], true);
            }
        }
        if (layer == 0 && !wanted(0)) break;
        if (ours) {
            Tensor before = at::empty({size.rows, size.inputs}, grad.options());
            if (tiled) {
                half_backward(grad.data_ptr<float>(), weights[layer].data_ptr<float>(), before.data_ptr<float>(), size);
            } else {
                product(grad, false, weights[layer], false, before, false);
            }
            grad = std::move(before);
        } else {
            grad = at::mm(grad, cast ? weights[layer].to(at::kBFloat16) : weights[layer]);
        }
        if (layer == 0) {
            found[0] = cast ? grad.to(at::kFloat) : grad;
        } else if (has_function(layer - 1)) {
            if (ours && function == relu) closed = seen[layer - 1];
            else grad = slope(function, grad, seen[layer - 1]);
        }
    }
    return found;
}

std::vector<Tensor> Stack::leaves() const {
    std::vector<Tensor> all{x};
    all.insert(all.end(), weights.begin(), weights.end());
    all.insert(all.end(), biases.begin(), biases.end());
    return all;
}

std::vector<Tensor> slopes_by_operations(const Tensor& output, const Tensor& grad, const std::vector<Tensor>& leaves,
                                         c10::function_ref<bool(std::size_t)> wanted) {
    std::vector<Tensor> found(leaves.size()), some;
    std::vector<std::size_t> places;
    for (std::size_t place = 0; place < leaves.size(); ++place) {
        if (!wanted(place)) continue;
        some.push_back(leaves[place]);
        places.push_back(place);
    }
    if (some.empty()) return found;
    auto grads = torch::autograd::grad({output}, some, {grad}, /*retain_graph=*/true, /*create_graph=*/true, /*allow_unused=*/true);
    for (std::size_t index = 0; index < places.size(); ++index) found[places[index]] = grads[index];
    return found;
}

void Stack::forget() {
    x.reset();
    inputs.clear();
    seen.clear();
}

}  // namespace latente
