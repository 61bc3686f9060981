#include "caught.h"
#include "half.h"
#include "kernels.h"
#include "torch_shim.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

namespace {

using at::Tensor;
using torch::autograd::Node;
using torch::autograd::variable_list;

at::TensorList one(void* tensor) { return at::TensorList(static_cast<Tensor*>(tensor), 1); }
const Tensor& as(const void* tensor) { return *static_cast<const Tensor*>(tensor); }

std::vector<Tensor> many(void* const* tensors, std::size_t count) {
    std::vector<Tensor> all;
    all.reserve(count);
    for (std::size_t index = 0; index < count; ++index) all.push_back(as(tensors[index]));
    return all;
}

// Whether the loops of kernels.h may go over it.
bool plain(const Tensor& tensor) {
    return tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.layout() == at::kStrided && tensor.is_contiguous();
}

// Numbers that one thread takes at a time, and the least number of such blocks that another thread is worth.
constexpr std::int64_t BLOCK = 4096;
constexpr std::int64_t BLOCKS = 8;

std::int64_t blocks(std::int64_t count) { return (count + BLOCK - 1) / BLOCK; }

// The sum over all blocks of `count` numbers of what `one(place, length)` gives for each. They are added up in their order, so
// that it is the same sum whatever the number of threads.
template <typename One>
double sum_of_blocks(std::int64_t count, One one) {
    std::vector<double> sums(blocks(count));
    at::parallel_for(0, blocks(count), BLOCKS, [&](std::int64_t start, std::int64_t end) {
        for (std::int64_t block = start; block < end; ++block) {
            sums[block] = one(block * BLOCK, std::min(BLOCK, count - block * BLOCK));
        }
    });
    double sum = 0;
    for (double part : sums) sum += part;
    return sum;
}

double sum_of_squares(const Tensor& all) {
    if (!plain(all)) return at::sum(at::square(all.to(at::kDouble))).item<double>();
    const float* values = all.data_ptr<float>();
    return sum_of_blocks(all.numel(), [&](std::int64_t place, std::int64_t length) { return latente::squares(values + place, length); });
}

// Rows of so many columns that one thread takes at least.
std::int64_t rows_at_once(std::int64_t columns) { return std::max<std::int64_t>(1, 2 * BLOCK / std::max<std::int64_t>(1, columns)); }

// Adds a bias to each row of `x`; `out` may be `x`.
void add_bias(const Tensor& x, const Tensor& bias, const Tensor& out, bool relu) {
    const std::int64_t columns = x.size(1);
    const float *values = x.data_ptr<float>(), *added = bias.data_ptr<float>();
    float* sums = out.data_ptr<float>();
    at::parallel_for(0, x.size(0), rows_at_once(columns), [&](std::int64_t start, std::int64_t end) {
        for (std::int64_t row = start; row < end; ++row) {
            latente::add_bias(values + row * columns, added, sums + row * columns, columns, relu);
        }
    });
}

// Rows whose sums are taken together; the sums of such stretches are added up in their order.
constexpr std::int64_t STRETCH = 512;

// What a function of `relu` that gave `seen`, where that is defined, lets through of a gradient [rows, columns], as `out`, which may
// be the gradient itself; and its sums over rows where `sums` is defined.
void let_through(const Tensor& grad, const Tensor& seen, const Tensor& out, const Tensor& sums) {
    const std::int64_t rows = grad.size(0), columns = grad.size(1), width = latente::COLUMNS;
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
            latente::let_through(values + place, above ? above + place : nullptr, left ? left + place : nullptr, to,
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

// Where the gradients of a backward pass on this thread go.
struct Destinations {
    void* const* leaves;
    void* const* views;
    std::size_t count;

    // The view of a leaf, if it is one of this pass.
    const Tensor* of(const Tensor& leaf) const {
        for (std::size_t index = 0; index < count; ++index) {
            if (as(leaves[index]).is_same(leaf)) return &as(views[index]);
        }
        return nullptr;
    }
};

thread_local const Destinations* destinations = nullptr;

// Adds a gradient to that of a leaf where it is kept, by `write(place, first)`; false where this pass keeps none for it.
template <typename Write>
bool kept(const Tensor& leaf, Write write) {
    if (destinations == nullptr) return false;
    const Tensor* view = destinations->of(leaf);
    if (view == nullptr) return false;
    Tensor& grad = leaf.mutable_grad();
    const bool first = !grad.defined();
    if (first) grad = *view;
    write(grad, first);
    return true;
}

// The order is that of `Activation` in src/models/network.rs.
enum Function : std::int64_t { sigmoid, tanh, relu, leaky_relu, elu, selu, gelu, silu, softplus };

// libtorch's constants of the self-normalising unit (Klambauer et al., 2017).
constexpr double selu_alpha = 1.6732632423543772848170429916717;
constexpr double selu_scale = 1.0507009873554804934193349852946;

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

// The stack by operations that have graphs of their own.
Tensor plain_stack(Tensor x, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases, std::int64_t function) {
    for (std::size_t layer = 0; layer < weights.size(); ++layer) {
        x = at::linear(x, weights[layer], biases[layer]);
        if (layer + 1 < weights.size()) x = apply_function(function, x);
    }
    return x;
}

struct StackBackward : public Node {
    std::vector<Tensor> weights;
    std::vector<Tensor> biases;
    Tensor x;
    std::vector<Tensor> inputs;  // of each layer
    std::vector<Tensor> seen;    // of each function: what its slope is found from
    std::int64_t function = 0;
    bool half = false;
    bool ours = false;   // whether the loops of kernels.h may go over all tensors
    bool tiled = false;  // whether the products of `half` are those of half.h, and all tensors of 32 bits

    variable_list apply(variable_list&& grads) override {
        const std::size_t layers = weights.size();
        variable_list found(1 + 2 * layers);
        if (!grads[0].defined()) return found;
        if (at::GradMode::is_enabled()) return again(grads[0]);
        const bool cast = half && !tiled;
        Tensor grad = cast ? grads[0].to(at::kBFloat16) : grads[0].contiguous();
        Tensor closed;  // what the last function gave, where the gradient has not come through it yet
        for (std::size_t layer = layers; layer-- > 0;) {
            const latente::LayerSize size{grad.size(0), weights[layer].size(1), weights[layer].size(0)};
            if (task_should_compute_output(1 + layers + layer)) {
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
            if (task_should_compute_output(1 + layer)) {
                const Tensor& input = inputs[layer];
                auto write = [&](Tensor& place, bool first) {
                    if (tiled) {
                        latente::half_slope(grad.data_ptr<float>(), input.data_ptr<float>(), place.data_ptr<float>(), size, !first);
                    } else if (cast) {
                        const Tensor product = at::mm(grad.t(), input);
                        if (first) place.copy_(product); else place.add_(product);
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
            if (layer == 0 && !task_should_compute_output(0)) break;
            if (tiled) {
                Tensor before = at::empty({size.rows, size.inputs}, grad.options());
                latente::half_backward(grad.data_ptr<float>(), weights[layer].data_ptr<float>(), before.data_ptr<float>(), size);
                grad = std::move(before);
            } else {
                grad = at::mm(grad, cast ? weights[layer].to(at::kBFloat16) : weights[layer]);
            }
            if (layer > 0 && ours && function == relu) closed = seen[layer - 1];
            else if (layer > 0) grad = slope(function, grad, seen[layer - 1]);
            else found[0] = cast ? grad.to(at::kFloat) : grad;
        }
        return found;
    }

    // The gradient of the gradient is asked for: the stack is gone through once more, by operations that have one.
    variable_list again(const Tensor& grad) {
        const std::size_t layers = weights.size();
        const Tensor output = plain_stack(x, weights, biases, function);
        variable_list wanted;
        std::vector<std::size_t> places;
        auto want = [&](std::size_t place, const Tensor& tensor) {
            if (task_should_compute_output(place)) {
                wanted.push_back(tensor);
                places.push_back(place);
            }
        };
        want(0, x);
        for (std::size_t layer = 0; layer < layers; ++layer) want(1 + layer, weights[layer]);
        for (std::size_t layer = 0; layer < layers; ++layer) want(1 + layers + layer, biases[layer]);
        variable_list found(1 + 2 * layers);
        if (wanted.empty()) return found;
        auto grads = torch::autograd::grad({output}, wanted, {grad}, /*retain_graph=*/true, /*create_graph=*/true, /*allow_unused=*/true);
        for (std::size_t index = 0; index < places.size(); ++index) found[places[index]] = grads[index];
        return found;
    }

    void release_variables() override {
        x.reset();
        inputs.clear();
        seen.clear();
    }

    std::string name() const override { return "LatenteStackBackward"; }
};

struct RowLossBackward : public Node {
    Tensor output;
    Tensor x;
    Tensor slopes;  // where they were found together with the loss
    bool bernoulli = false;

    variable_list apply(variable_list&& grads) override {
        if (!grads[0].defined()) return variable_list(1);
        const Tensor grad = grads[0].unsqueeze(-1);
        if (at::GradMode::is_enabled()) {
            return {grad * (bernoulli ? output.sigmoid() - x : output - x)};
        }
        if (slopes.defined()) {
            const Tensor factors = grads[0].contiguous();
            const std::int64_t columns = slopes.size(-1);
            Tensor found = at::empty_like(slopes);
            const float *slope = slopes.data_ptr<float>(), *factor = factors.data_ptr<float>();
            float* out = found.data_ptr<float>();
            at::parallel_for(0, factors.numel(), rows_at_once(columns), [&](std::int64_t start, std::int64_t end) {
                for (std::int64_t row = start; row < end; ++row) {
                    latente::scale(slope + row * columns, factor[row], out + row * columns, columns);
                }
            });
            return {found};
        }
        Tensor found = bernoulli ? at::sigmoid(output).sub_(x) : at::sub(output, x);
        return {found.mul_(grad)};
    }

    void release_variables() override {
        output.reset();
        x.reset();
        slopes.reset();
    }

    std::string name() const override { return "LatenteRowLossBackward"; }
};

// The losses of rows and their slopes in one pass over memory; rows of `output` come in as many rounds as there are draws.
Tensor losses_of_rows(const Tensor& output, const Tensor& x, bool bernoulli, Tensor& slopes) {
    const std::int64_t columns = x.size(-1), rows = x.numel() / std::max<std::int64_t>(1, columns);
    slopes = at::empty_like(output);
    Tensor sums = at::empty(output.sizes().slice(0, output.dim() - 1), output.options());
    const float *o = output.data_ptr<float>(), *wanted = x.data_ptr<float>();
    float *slope = slopes.data_ptr<float>(), *sum = sums.data_ptr<float>();
    at::parallel_for(0, sums.numel(), rows_at_once(columns), [&](std::int64_t start, std::int64_t end) {
        for (std::int64_t row = start; row < end; ++row) {
            const std::int64_t place = row * columns;
            sum[row] = latente::row_loss(o + place, wanted + row % rows * columns, slope + place, columns, bernoulli);
        }
    });
    return sums;
}

struct BiasedBackward : public Node {
    Tensor bias;
    Tensor seen;  // what relu gave, where there is one

    variable_list apply(variable_list&& grads) override {
        variable_list found(2);
        if (!grads[0].defined()) return found;
        const Tensor grad = grads[0].contiguous();
        if (at::GradMode::is_enabled()) {
            found[0] = seen.defined() ? grad * seen.gt(0) : grad;
            found[1] = found[0].sum(0);
            return found;
        }
        found[0] = seen.defined() ? at::empty_like(grad) : grad;
        auto write = [&](Tensor& place, bool first) {
            Tensor sums = first ? place : at::empty_like(place);
            let_through(grad, seen, found[0], sums);
            if (!first) place.add_(sums);
        };
        if (!task_should_compute_output(1)) {
            let_through(grad, seen, found[0], {});
        } else if (!kept(bias, write)) {
            found[1] = at::empty_like(bias);
            write(found[1], true);
        }
        return found;
    }

    void release_variables() override { seen.reset(); }

    std::string name() const override { return "LatenteBiasedBackward"; }
};

struct GaussianCodeBackward : public Node {
    Tensor both;
    Tensor noise;
    Tensor spread;
    double limit = 0;

    variable_list apply(variable_list&& grads) override {
        if (!grads[0].defined() && !grads[1].defined()) return variable_list(1);
        if (at::GradMode::is_enabled()) return again(grads);
        const std::int64_t rows = noise.size(0), latent = noise.size(1);
        const Tensor z_grad = grads[0].defined() ? grads[0].contiguous() : Tensor();
        const Tensor divergence_grad = grads[1].defined() ? at::div(grads[1], static_cast<double>(rows)).contiguous() : Tensor();
        Tensor found = at::empty_like(both);
        latente::gaussian_code_slope(both.data_ptr<float>(), noise.data_ptr<float>(), spread.data_ptr<float>(),
                                     static_cast<float>(limit), z_grad.defined() ? z_grad.data_ptr<float>() : nullptr,
                                     divergence_grad.defined() ? divergence_grad.data_ptr<float>() : nullptr,
                                     found.data_ptr<float>(), rows, latent);
        return {found};
    }

    // The gradient of the gradient is asked for: the same once more, by operations that have one.
    variable_list again(const variable_list& grads) {
        const std::int64_t latent = noise.size(1);
        const Tensor mean = both.narrow(1, 0, latent), logs = both.narrow(1, latent, latent).clamp(-limit, limit);
        const Tensor divergence = ((mean.square() + logs.exp() - logs - 1) * 0.5).mean(0);
        variable_list outputs, given;
        if (grads[0].defined()) {
            outputs.push_back(mean + (logs * 0.5).exp() * noise);
            given.push_back(grads[0]);
        }
        if (grads[1].defined()) {
            outputs.push_back(divergence);
            given.push_back(grads[1]);
        }
        return torch::autograd::grad(outputs, {both}, given, /*retain_graph=*/true, /*create_graph=*/true);
    }

    void release_variables() override {
        both.reset();
        noise.reset();
        spread.reset();
    }

    std::string name() const override { return "LatenteGaussianCodeBackward"; }
};

}  // namespace

int latente_fused_adamw(void* parameters, void* gradients, void* first, void* second, void* steps, double lr,
                        double beta1, double beta2, double weight_decay, double epsilon, double* squares, char* message,
                        std::size_t capacity) {
    return caught(message, capacity, [&] {
        const Tensor& w = as(parameters);
        if (!plain(w)) {
            *squares = sum_of_squares(as(gradients));
            at::_fused_adamw_(one(parameters), one(gradients), one(first), one(second), {}, one(steps), lr, beta1, beta2,
                              weight_decay, epsilon, /*amsgrad=*/false, /*maximize=*/false);
            return;
        }
        const double begun = as(steps).item<double>();
        const latente::AdamNumbers numbers{
            static_cast<float>(1 - lr * weight_decay), static_cast<float>(beta1), static_cast<float>(beta2),
            static_cast<float>(lr / (1 - std::pow(beta1, begun))),
            static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, begun))), static_cast<float>(epsilon)};
        float *weights = w.data_ptr<float>(), *m = as(first).data_ptr<float>(), *v = as(second).data_ptr<float>();
        const float* g = as(gradients).data_ptr<float>();
        const std::int64_t count = w.numel();
        // A block is summed while it comes into the cache for its step.
        *squares = sum_of_blocks(count, [&](std::int64_t place, std::int64_t length) {
            const double sum = latente::squares(g + place, length);
            latente::adamw(weights + place, g + place, m + place, v + place, length, numbers);
            return sum;
        });
    });
}

int latente_scaled(const float* const* rows, std::size_t count, const float* shifts, const float* scales, std::size_t width,
                   bool held, void** tensor, char* message, std::size_t capacity) {
    return caught(message, capacity, [&] {
        const std::int64_t columns = static_cast<std::int64_t>(width);
        Tensor all = at::empty({static_cast<std::int64_t>(count), columns}, at::kFloat);
        float* out = all.data_ptr<float>();
        at::parallel_for(0, all.size(0), rows_at_once(columns), [&](std::int64_t start, std::int64_t end) {
            for (std::int64_t row = start; row < end; ++row) {
                latente::prepare(rows[row], shifts, scales, held, out + row * columns, width);
            }
        });
        *tensor = new Tensor(std::move(all));
    });
}

int latente_squares(const void* tensor, double* sum, char* message, std::size_t capacity) {
    return caught(message, capacity, [&] { *sum = sum_of_squares(as(tensor)); });
}

bool latente_is_recorded() { return torch::jit::tracer::isTracing(); }

int latente_stack(void* input, void* const* weights, void* const* biases, std::size_t layers, std::int64_t activation,
                  bool half, void** output, char* message, std::size_t capacity) {
    return caught(message, capacity, [&] {
        const Tensor& x = as(input);
        auto node = std::shared_ptr<StackBackward>(new StackBackward(), torch::autograd::deleteNode);
        node->weights = many(weights, layers);
        node->biases = many(biases, layers);
        node->function = activation;
        node->half = half;
        const bool wanted = at::GradMode::is_enabled() && torch::autograd::compute_requires_grad(
            x, at::TensorList(node->weights), at::TensorList(node->biases));
        Tensor result;
        {
            at::AutoDispatchBelowADInplaceOrView below;
            const bool ours = plain(x) && x.dim() == 2 && std::all_of(node->weights.begin(), node->weights.end(), plain) &&
                              std::all_of(node->biases.begin(), node->biases.end(), plain);
            node->tiled = half && ours && latente::has_half_products();
            const bool cast = half && !node->tiled;
            node->ours = ours && !cast;
            result = cast ? x.to(at::kBFloat16) : x;
            // Whoever asks for no gradient keeps none of what lies between.
            auto keep = [wanted](std::vector<Tensor>& kept, const Tensor& tensor) {
                if (wanted) kept.push_back(tensor);
            };
            node->x = x;
            keep(node->inputs, result);
            for (std::size_t layer = 0; layer < layers; ++layer) {
                const bool last = layer + 1 == layers, done = node->ours && !last && activation == relu;
                const Tensor &weight = node->weights[layer], &bias = node->biases[layer];
                if (node->tiled) {
                    TORCH_CHECK(result.size(1) == weight.size(1), "a layer of ", weight.size(1), " inputs is given ", result.size(1));
                    Tensor product = at::empty({result.size(0), weight.size(0)}, result.options());
                    latente::half_forward(result.data_ptr<float>(), weight.data_ptr<float>(), product.data_ptr<float>(),
                                          {result.size(0), weight.size(1), weight.size(0)});
                    result = std::move(product);
                } else if (node->ours) {
                    result = at::mm(result, weight.t());
                } else {
                    result = cast ? at::addmm(bias.to(at::kBFloat16), result, weight.to(at::kBFloat16).t())
                                  : at::addmm(bias, result, weight.t());
                }
                if (node->ours) add_bias(result, bias, result, done);
                if (last) break;
                const bool before = looks_before(activation);
                if (before) keep(node->seen, result);
                if (!done) result = replace_by_function(activation, result);
                if (!before) keep(node->seen, result);
                keep(node->inputs, result);
            }
            if (cast) result = result.to(at::kFloat);
        }
        if (wanted) {
            node->set_next_edges(torch::autograd::collect_next_edges(x, at::TensorList(node->weights), at::TensorList(node->biases)));
            torch::autograd::set_history(result, node);
        }
        *output = new Tensor(std::move(result));
    });
}

int latente_row_loss(void* output, void* x, bool bernoulli, void** sums, char* message, std::size_t capacity) {
    return caught(message, capacity, [&] {
        const Tensor& o = as(output);
        Tensor result, slopes;
        {
            at::AutoDispatchBelowADInplaceOrView below;
            if (plain(o) && plain(as(x)) && as(x).dim() == 2 && as(x).numel() > 0 && o.dim() >= 2 && o.size(-2) == as(x).size(0) &&
                o.size(-1) == as(x).size(1)) {
                result = losses_of_rows(o, as(x), bernoulli, slopes);
            } else if (bernoulli) {
                // H(x; p) = max(logit, 0) + log(1 + exp(-|logit|)) - x * logit. The sum is between 1 and 2, so that the
                // logarithm is off by less than 1e-7, and takes a third of the time of log1p.
                Tensor each = at::abs(o).neg_().exp_().add_(1).log_();
                result = each.add_(at::clamp_min(o, 0)).addcmul_(o, as(x), -1).sum(-1);
            } else {
                Tensor away = at::sub(o, as(x));
                result = away.mul_(away).sum(-1).mul_(0.5);
            }
        }
        if (at::GradMode::is_enabled() && o.requires_grad()) {
            auto node = std::shared_ptr<RowLossBackward>(new RowLossBackward(), torch::autograd::deleteNode);
            node->output = o;
            node->x = as(x);
            node->slopes = std::move(slopes);
            node->bernoulli = bernoulli;
            node->set_next_edges(torch::autograd::collect_next_edges(o));
            torch::autograd::set_history(result, node);
        }
        *sums = new Tensor(std::move(result));
    });
}

int latente_biased(void* x, void* bias, bool relu, void** output, char* message, std::size_t capacity) {
    return caught(message, capacity, [&] {
        const Tensor &all = as(x), &added = as(bias);
        TORCH_CHECK(plain(all) && plain(added) && all.dim() == 2 && added.dim() == 1 && all.size(1) == added.size(0),
                    "a bias of ", added.sizes(), " and values of ", all.sizes(), " do not go together");
        Tensor result;
        {
            at::AutoDispatchBelowADInplaceOrView below;
            result = at::empty_like(all);
            add_bias(all, added, result, relu);
        }
        if (at::GradMode::is_enabled() && torch::autograd::compute_requires_grad(all, added)) {
            auto node = std::shared_ptr<BiasedBackward>(new BiasedBackward(), torch::autograd::deleteNode);
            node->bias = added;
            node->set_next_edges(torch::autograd::collect_next_edges(all, added));
            torch::autograd::set_history(result, node);
            // What a node keeps of its own result must not keep the node.
            if (relu) node->seen = result.detach();
        }
        *output = new Tensor(std::move(result));
    });
}

int latente_gaussian_code(void* both, void* noise, double limit, void** z, void** divergence, char* message,
                          std::size_t capacity) {
    return caught(message, capacity, [&] {
        const Tensor &b = as(both), &n = as(noise);
        TORCH_CHECK(plain(b) && plain(n) && b.dim() == 2 && n.dim() == 2 && b.size(0) == n.size(0) && b.size(1) == 2 * n.size(1),
                    "codes of ", b.sizes(), " and noise of ", n.sizes(), " do not go together");
        Tensor drawn, units, spread;
        {
            at::AutoDispatchBelowADInplaceOrView below;
            drawn = at::empty_like(n);
            spread = at::empty_like(n);
            units = at::empty({n.size(1)}, n.options());
            latente::gaussian_code(b.data_ptr<float>(), n.data_ptr<float>(), static_cast<float>(limit), drawn.data_ptr<float>(),
                                   spread.data_ptr<float>(), units.data_ptr<float>(), n.size(0), n.size(1));
            units.div_(static_cast<double>(n.size(0)));
        }
        if (at::GradMode::is_enabled() && b.requires_grad()) {
            auto node = std::shared_ptr<GaussianCodeBackward>(new GaussianCodeBackward(), torch::autograd::deleteNode);
            node->both = b;
            node->noise = n;
            node->spread = spread;
            node->limit = limit;
            node->set_next_edges(torch::autograd::collect_next_edges(b));
            torch::autograd::set_history(std::vector<Tensor>{drawn, units}, node);
        }
        auto first = std::make_unique<Tensor>(std::move(drawn));
        *divergence = new Tensor(std::move(units));
        *z = first.release();
    });
}

int latente_backward(void* loss, void* const* leaves, void* const* views, std::size_t count, char* message,
                     std::size_t capacity) {
    return caught(message, capacity, [&] {
        const Destinations here{leaves, views, count};
        for (std::size_t index = 0; index < count; ++index) as(leaves[index]).mutable_grad().reset();
        const Destinations* before = destinations;
        destinations = &here;
        try {
            torch::autograd::backward({as(loss)}, {}, /*retain_graph=*/false, /*create_graph=*/false, many(leaves, count));
        } catch (...) {
            destinations = before;
            throw;
        }
        destinations = before;
        at::NoGradGuard guard;
        for (std::size_t index = 0; index < count; ++index) {
            Tensor& grad = as(leaves[index]).mutable_grad();
            Tensor view = as(views[index]);
            if (!grad.defined()) {
                view.zero_();
            } else if (!grad.is_same(view)) {
                view.copy_(grad);
            }
            grad.reset();
        }
    });
}
