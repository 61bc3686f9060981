#include "caught.h"
#include "convolution.h"
#include "kernels.h"
#include "stack.h"
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
#include <numeric>
#include <vector>

namespace {

using at::Tensor;
using latente::add_bias;
using latente::as;
using latente::BLOCK;
using latente::kept;
using latente::let_through;
using latente::plain;
using latente::rows_at_once;
using latente::Stack;
using torch::autograd::Node;
using torch::autograd::variable_list;

at::TensorList one(void* tensor) { return at::TensorList(static_cast<Tensor*>(tensor), 1); }
std::vector<Tensor> many(void* const* tensors, std::size_t count) {
    std::vector<Tensor> all;
    all.reserve(count);
    for (std::size_t index = 0; index < count; ++index) all.push_back(as(tensors[index]));
    return all;
}

Stack stack_of(void* const* weights, void* const* biases, std::size_t layers, std::int64_t activation, bool half) {
    Stack stack;
    stack.weights = many(weights, layers);
    stack.biases = many(biases, layers);
    stack.function = activation;
    stack.half = half;
    return stack;
}

// The least number of blocks that another thread is worth.
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

struct StackBackward : public Node {
    Stack stack;

    variable_list apply(variable_list&& grads) override {
        if (!grads[0].defined()) return variable_list(1 + 2 * stack.weights.size());
        auto wanted = [this](std::size_t place) { return task_should_compute_output(place); };
        // Where the gradient of the gradient is asked for, the stack is gone through once more, by operations that have one.
        if (at::GradMode::is_enabled()) {
            return latente::slopes_by_operations(stack.by_operations(stack.x), grads[0], stack.leaves(), wanted);
        }
        return stack.backward(grads[0], wanted);
    }

    void release_variables() override { stack.forget(); }

    std::string name() const override { return "LatenteStackBackward"; }
};

// -log p of `x` by operations, as the mean over rows and without the constant.
Tensor loss_by_operations(const Tensor& output, const Tensor& x, bool bernoulli) {
    const Tensor each = bernoulli ? at::softplus(output) - x * output : (output - x).square() * 0.5;
    return each.sum(-1).mean();
}

// A loss that may be all there is: then its gradients are found without the engine of the graph.
struct LossBackward : public Node {
    // Whether nothing but leaves lies behind it.
    virtual bool is_all() const = 0;
    // The gradients of the loss itself.
    virtual void alone() const = 0;
};

bool are_leaves(const std::vector<Tensor>& tensors) {
    return std::all_of(tensors.begin(), tensors.end(), [](const Tensor& tensor) { return tensor.grad_fn() == nullptr; });
}

// The mean over rows of the loss of what a stack makes of them.
struct RestoredBackward : public LossBackward {
    Stack stack;
    Tensor x;       // what is to come out
    Tensor slopes;  // of the loss over what came out
    bool bernoulli = false;

    variable_list apply(variable_list&& grads) override {
        if (!grads[0].defined()) return variable_list(1 + 2 * stack.weights.size());
        auto wanted = [this](std::size_t place) { return task_should_compute_output(place); };
        if (at::GradMode::is_enabled()) {
            const Tensor loss = loss_by_operations(stack.by_operations(stack.x), x, bernoulli);
            return latente::slopes_by_operations(loss, grads[0], stack.leaves(), wanted);
        }
        return stack.backward(slopes * grads[0], wanted);
    }

    bool is_all() const override { return !stack.x.requires_grad() && are_leaves(stack.weights) && are_leaves(stack.biases); }

    void alone() const override {
        const std::vector<Tensor> leaves = stack.leaves();
        stack.backward(slopes, [&](std::size_t place) { return leaves[place].requires_grad(); });
    }

    void release_variables() override {
        stack.forget();
        x.reset();
        slopes.reset();
    }

    std::string name() const override { return "LatenteRestoredBackward"; }
};

// The mean over rows of the loss of what a decoder makes of drawn codes, and a share of the codes' divergence from the standard normal
// distribution. What goes in takes no gradient; the weights and biases of the encoder come first, then those of the decoder.
struct VariationalBackward : public LossBackward {
    Stack encoder, decoder;
    Tensor x;       // what is to come out
    Tensor noise;   // [rows, latent]
    Tensor both;    // what the encoder gave
    Tensor spread;  // of the codes
    Tensor units;   // the divergence of each unit, as the mean over rows
    Tensor slopes;  // of the loss over what came out
    double limit = 0, weight = 0, least = 0;
    bool bernoulli = false;

    std::size_t first_of_decoder() const { return 2 * encoder.weights.size(); }

    variable_list apply(variable_list&& grads) override {
        if (!grads[0].defined()) return variable_list(first_of_decoder() + 2 * decoder.weights.size());
        auto wanted = [this](std::size_t place) { return task_should_compute_output(place); };
        if (at::GradMode::is_enabled()) return latente::slopes_by_operations(by_operations(), grads[0], leaves(), wanted);
        return slopes_of(slopes * grads[0], grads[0].item<double>(), wanted);
    }

    variable_list slopes_of(const Tensor& grad, double factor, c10::function_ref<bool(std::size_t)> wanted) const {
        const std::int64_t rows = noise.size(0), latent = noise.size(1);
        const std::size_t first = first_of_decoder();
        auto found = decoder.backward(grad, [&](std::size_t place) { return place == 0 || wanted(first + place - 1); });
        Tensor pressed = at::empty_like(units);
        const float* divergence = units.data_ptr<float>();
        for (std::int64_t unit = 0; unit < latent; ++unit) {
            const bool counts = divergence[unit] >= least;
            pressed.data_ptr<float>()[unit] = counts ? static_cast<float>(factor * weight / static_cast<double>(rows)) : 0.0f;
        }
        Tensor of_both = at::empty_like(both);
        latente::gaussian_code_slope(both.data_ptr<float>(), noise.data_ptr<float>(), spread.data_ptr<float>(),
                                     static_cast<float>(limit), found[0].data_ptr<float>(), pressed.data_ptr<float>(),
                                     of_both.data_ptr<float>(), rows, latent);
        variable_list all = encoder.backward(of_both, [&](std::size_t place) { return place > 0 && wanted(place - 1); });
        all.erase(all.begin());
        all.insert(all.end(), found.begin() + 1, found.end());
        return all;
    }

    Tensor by_operations() const {
        const std::int64_t latent = noise.size(1);
        const Tensor given = encoder.by_operations(encoder.x);
        const Tensor mean = given.narrow(1, 0, latent), logs = given.narrow(1, latent, latent).clamp(-limit, limit);
        const Tensor divergence = ((mean.square() + logs.exp() - logs - 1) * 0.5).mean(0);
        const Tensor output = decoder.by_operations(mean + (logs * 0.5).exp() * noise);
        return loss_by_operations(output, x, bernoulli) + at::clamp_min(divergence, least).sum() * weight;
    }

    std::vector<Tensor> leaves() const {
        std::vector<Tensor> all = encoder.leaves(), more = decoder.leaves();
        all.erase(all.begin());
        all.insert(all.end(), more.begin() + 1, more.end());
        return all;
    }

    bool is_all() const override { return are_leaves(leaves()); }

    void alone() const override {
        const std::vector<Tensor> all = leaves();
        slopes_of(slopes, 1, [&](std::size_t place) { return all[place].requires_grad(); });
    }

    void release_variables() override {
        encoder.forget();
        decoder.forget();
        for (Tensor* tensor : {&x, &noise, &both, &spread, &units, &slopes}) tensor->reset();
    }

    std::string name() const override { return "LatenteVariationalBackward"; }
};

bool wants_gradient(const Tensor& x, const Stack& stack) {
    return at::GradMode::is_enabled() &&
           torch::autograd::compute_requires_grad(x, at::TensorList(stack.weights), at::TensorList(stack.biases));
}

template <typename OfStack>
void set_history(Tensor& result, const Tensor& x, const std::shared_ptr<OfStack>& node) {
    const Stack& stack = node->stack;
    node->set_next_edges(torch::autograd::collect_next_edges(x, at::TensorList(stack.weights), at::TensorList(stack.biases)));
    torch::autograd::set_history(result, node);
}

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

// The losses of rows and `factor` times their slopes in one pass over memory; rows of `output` come in as many rounds as there are
// draws.
Tensor losses_of_rows(const Tensor& output, const Tensor& x, bool bernoulli, float factor, Tensor& slopes) {
    const std::int64_t columns = x.size(-1), rows = x.numel() / std::max<std::int64_t>(1, columns);
    slopes = at::empty_like(output);
    Tensor sums = at::empty(output.sizes().slice(0, output.dim() - 1), output.options());
    const float *o = output.data_ptr<float>(), *wanted = x.data_ptr<float>();
    float *slope = slopes.data_ptr<float>(), *sum = sums.data_ptr<float>();
    at::parallel_for(0, sums.numel(), rows_at_once(columns), [&](std::int64_t start, std::int64_t end) {
        for (std::int64_t row = start; row < end; ++row) {
            const std::int64_t place = row * columns;
            sum[row] = latente::row_loss(o + place, wanted + row % rows * columns, slope + place, columns, bernoulli, factor);
        }
    });
    return sums;
}

// The mean of the losses of rows, and its slopes.
double mean_loss(const Tensor& output, const Tensor& x, bool bernoulli, Tensor& slopes) {
    TORCH_CHECK(plain(output) && plain(x) && output.sizes() == x.sizes() && x.dim() == 2 && x.numel() > 0, "what comes out is ",
                output.sizes(), ", and is to be ", x.sizes());
    const std::int64_t rows = x.size(0);
    const Tensor sums = losses_of_rows(output, x, bernoulli, 1.0f / static_cast<float>(rows), slopes);
    const float* each = sums.data_ptr<float>();
    return std::accumulate(each, each + rows, 0.0) / static_cast<double>(rows);
}

Tensor scalar(double value, const Tensor& like) {
    Tensor one = at::empty({}, like.options());
    *one.data_ptr<float>() = static_cast<float>(value);
    return one;
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

struct ConvolutionBackward : public Node {
    latente::Convolution convolution;
    Tensor x;
    Tensor out;  // without its node

    variable_list apply(variable_list&& grads) override {
        variable_list found(3);
        if (!grads[0].defined()) return found;
        if (at::GradMode::is_enabled()) return again(grads[0]);
        auto slopes = convolution.backward(x, out, grads[0], task_should_compute_output(0));
        found[0] = std::move(slopes.x);
        auto give = [&](std::size_t place, const Tensor& leaf, const Tensor& slope) {
            if (!task_should_compute_output(place)) return;
            auto write = [&](Tensor& kept, bool first) { first ? kept.copy_(slope) : kept.add_(slope); };
            if (!kept(leaf, write)) found[place] = slope;
        };
        give(1, convolution.weight, slopes.weight);
        give(2, convolution.bias, slopes.bias);
        return found;
    }

    // The gradient of the gradient is asked for: the same once more, by operations that have one.
    variable_list again(const Tensor& grad) {
        const latente::Window& window = convolution.window;
        const std::int64_t stride = window.stride, padding = window.padding;
        auto missing = [&](std::int64_t wide, std::int64_t narrow) { return wide - ((narrow - 1) * stride - 2 * padding + window.kernel); };
        Tensor result = convolution.transposed
            ? at::conv_transpose2d(x, convolution.weight, convolution.bias, {stride, stride}, {padding, padding},
                                   {missing(window.wide_height, window.narrow_height), missing(window.wide_width, window.narrow_width)})
            : at::conv2d(x, convolution.weight, convolution.bias, {stride, stride}, {padding, padding});
        if (convolution.relu) result = at::relu(result);
        return latente::slopes_by_operations(result, grad, {x, convolution.weight, convolution.bias},
                                             [this](std::size_t place) { return task_should_compute_output(place); });
    }

    void release_variables() override {
        x.reset();
        out.reset();
    }

    std::string name() const override { return "LatenteConvolutionBackward"; }
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

int latente_fused_adamw(void* parameters, void* gradients, void* first, void* second, double steps, double lr,
                        double beta1, double beta2, double weight_decay, double epsilon, double* squares, bool* are_found,
                        char* message, std::size_t capacity) {
    return caught(message, capacity, [&] {
        const Tensor& w = as(parameters);
        *are_found = plain(w);
        if (!*are_found) {
            const Tensor begun = at::full({}, steps, w.options().dtype(at::kFloat));
            at::_fused_adamw_(one(parameters), one(gradients), one(first), one(second), {}, begun, lr, beta1, beta2,
                              weight_decay, epsilon, /*amsgrad=*/false, /*maximize=*/false);
            return;
        }
        const latente::AdamNumbers numbers{
            static_cast<float>(1 - lr * weight_decay), static_cast<float>(beta1), static_cast<float>(beta2),
            static_cast<float>(lr / (1 - std::pow(beta1, steps))),
            static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, steps))), static_cast<float>(epsilon)};
        float *weights = w.data_ptr<float>(), *m = as(first).data_ptr<float>(), *v = as(second).data_ptr<float>();
        const float* g = as(gradients).data_ptr<float>();
        const std::int64_t count = w.numel();
        *squares = sum_of_blocks(count, [&](std::int64_t place, std::int64_t length) {
            return latente::adamw(weights + place, g + place, m + place, v + place, length, numbers);
        });
    });
}

int latente_fused_rule(const latente_rule* rule, void* parameters, void* gradients, void* first, void* second, double* squares,
                       bool* are_found, char* message, std::size_t capacity) {
    return caught(message, capacity, [&] {
        const Tensor& w = as(parameters);
        *are_found = plain(w);
        if (!*are_found) return;
        const latente::RuleNumbers numbers{static_cast<float>(1 - rule->lr * rule->weight_decay), static_cast<float>(rule->lr),
                                           static_cast<float>(rule->momentum), static_cast<float>(rule->beta1),
                                           static_cast<float>(rule->beta2), static_cast<float>(rule->epsilon), rule->nesterov};
        auto start = [](void* tensor) { return as(tensor).numel() > 0 ? as(tensor).data_ptr<float>() : nullptr; };
        auto from = [](float* start, std::int64_t place) { return start == nullptr ? nullptr : start + place; };
        float *weights = start(parameters), *m = start(first), *v = start(second);
        const float* g = start(gradients);
        *squares = sum_of_blocks(w.numel(), [&](std::int64_t place, std::int64_t length) {
            const double sum = latente::squares(g + place, length);
            switch (rule->kind) {
                case 0: latente::sgd(weights + place, g + place, from(m, place), length, numbers); break;
                case 1: latente::rmsprop(weights + place, g + place, from(m, place), v + place, length, numbers); break;
                default: latente::lion(weights + place, g + place, m + place, length, numbers);
            }
            return sum;
        });
    });
}

int latente_scaled(const float* const* rows, std::size_t count, const float* shifts, const float* scales, std::size_t width,
                   bool held, bool alone, void** tensor, char* message, std::size_t capacity) {
    return caught(message, capacity, [&] {
        const std::int64_t columns = static_cast<std::int64_t>(width);
        Tensor all = at::empty({static_cast<std::int64_t>(count), columns}, at::kFloat);
        float* out = all.data_ptr<float>();
        auto some = [&](std::int64_t start, std::int64_t end) {
            for (std::int64_t row = start; row < end; ++row) {
                latente::prepare(rows[row], shifts, scales, held, out + row * columns, width);
            }
        };
        if (alone) some(0, all.size(0));
        else at::parallel_for(0, all.size(0), rows_at_once(columns), some);
        *tensor = new Tensor(std::move(all));
    });
}

int latente_squares(const void* tensor, double* sum, char* message, std::size_t capacity) {
    return caught(message, capacity, [&] { *sum = sum_of_squares(as(tensor)); });
}

void latente_allow_tf32() {
    at::globalContext().setAllowTF32CuBLAS(true);
    at::globalContext().setAllowTF32CuDNN(true);
}

bool latente_is_plain(const void* tensor) { return plain(as(tensor)); }

bool latente_is_recorded() { return torch::jit::tracer::isTracing(); }

int latente_stack(void* input, void* const* weights, void* const* biases, std::size_t layers, std::int64_t activation,
                  bool half, void** output, char* message, std::size_t capacity) {
    return caught(message, capacity, [&] {
        const Tensor& x = as(input);
        auto node = std::shared_ptr<StackBackward>(new StackBackward(), torch::autograd::deleteNode);
        Stack& stack = node->stack;
        stack = stack_of(weights, biases, layers, activation, half);
        const bool wanted = wants_gradient(x, stack);
        Tensor result;
        {
            at::AutoDispatchBelowADInplaceOrView below;
            result = stack.forward(x, wanted);
        }
        if (wanted) set_history(result, x, node);
        *output = new Tensor(std::move(result));
    });
}

int latente_restored(void* input, void* x, void* const* weights, void* const* biases, std::size_t layers, std::size_t code,
                     std::int64_t activation, bool half, bool bernoulli, double constant, void** loss, char* message,
                     std::size_t capacity) {
    return caught(message, capacity, [&] {
        const Tensor &seen = as(input), &aim = as(x);
        auto node = std::shared_ptr<RestoredBackward>(new RestoredBackward(), torch::autograd::deleteNode);
        Stack& stack = node->stack;
        stack = stack_of(weights, biases, layers, activation, half);
        stack.code = static_cast<std::int64_t>(code);
        const bool wanted = wants_gradient(seen, stack);
        Tensor result;
        {
            at::AutoDispatchBelowADInplaceOrView below;
            const Tensor output = stack.forward(seen, wanted).contiguous();
            result = scalar(mean_loss(output, aim, bernoulli, node->slopes) + constant, aim);
        }
        if (wanted) {
            node->x = aim;
            node->bernoulli = bernoulli;
            set_history(result, seen, node);
        }
        *loss = new Tensor(std::move(result));
    });
}

int latente_variational(void* input, void* x, void* noise, void* const* weights, void* const* biases, std::size_t encoder_layers,
                        std::size_t decoder_layers, std::int64_t activation, bool half, bool bernoulli, double constant, double limit,
                        double weight, double least, void** losses, char* message, std::size_t capacity) {
    return caught(message, capacity, [&] {
        const Tensor &seen = as(input), &aim = as(x), &draws = as(noise);
        auto node = std::shared_ptr<VariationalBackward>(new VariationalBackward(), torch::autograd::deleteNode);
        Stack &encoder = node->encoder, &decoder = node->decoder;
        encoder = stack_of(weights, biases, encoder_layers, activation, half);
        decoder = stack_of(weights + encoder_layers, biases + encoder_layers, decoder_layers, activation, half);
        const std::vector<Tensor> leaves = node->leaves();
        const bool wanted = at::GradMode::is_enabled() && torch::autograd::compute_requires_grad(at::TensorList(leaves));
        TORCH_CHECK(!seen.requires_grad(), "what goes in takes no gradient");
        Tensor total, reconstruction, divergence;
        {
            at::AutoDispatchBelowADInplaceOrView below;
            node->both = encoder.forward(seen, wanted).contiguous();
            const std::int64_t rows = draws.size(0), latent = draws.size(1);
            TORCH_CHECK(plain(node->both) && plain(draws) && node->both.dim() == 2 && draws.dim() == 2 && node->both.size(0) == rows &&
                            node->both.size(1) == 2 * latent, "codes of ", node->both.sizes(), " and noise of ", draws.sizes(),
                        " do not go together");
            Tensor z = at::empty_like(draws);
            node->spread = at::empty_like(draws);
            node->units = at::empty({latent}, draws.options());
            float* units = node->units.data_ptr<float>();
            latente::gaussian_code(node->both.data_ptr<float>(), draws.data_ptr<float>(), static_cast<float>(limit), z.data_ptr<float>(),
                                   node->spread.data_ptr<float>(), units, rows, latent);
            double all = 0, pressing = 0;
            for (std::int64_t unit = 0; unit < latent; ++unit) {
                units[unit] /= static_cast<float>(rows);
                all += units[unit];
                pressing += std::max(static_cast<double>(units[unit]), least);
            }
            const double lost = mean_loss(decoder.forward(z, wanted).contiguous(), aim, bernoulli, node->slopes) + constant;
            total = scalar(lost + weight * pressing, aim);
            reconstruction = scalar(lost, aim);
            divergence = scalar(all, aim);
        }
        if (wanted) {
            node->x = aim;
            node->noise = draws;
            node->limit = limit;
            node->weight = weight;
            node->least = least;
            node->bernoulli = bernoulli;
            node->set_next_edges(torch::autograd::collect_next_edges(at::TensorList(leaves)));
            torch::autograd::set_history(total, node);
        }
        auto first = std::make_unique<Tensor>(std::move(total)), second = std::make_unique<Tensor>(std::move(reconstruction));
        losses[2] = new Tensor(std::move(divergence));
        losses[1] = second.release();
        losses[0] = first.release();
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
                result = losses_of_rows(o, as(x), bernoulli, 1, slopes);
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

int latente_convolution(void* x, void* weight, void* bias, bool transposed, bool relu, std::int64_t stride, std::int64_t padding,
                        const std::int64_t* output_padding, void** output, char* message, std::size_t capacity) {
    return caught(message, capacity, [&] {
        const Tensor& images = as(x);
        auto node = std::shared_ptr<ConvolutionBackward>(new ConvolutionBackward(), torch::autograd::deleteNode);
        latente::Convolution& convolution = node->convolution;
        convolution.weight = as(weight);
        convolution.bias = as(bias);
        convolution.transposed = transposed;
        convolution.relu = relu;
        *output = nullptr;
        if (!convolution.takes(images)) return;
        const Tensor& w = convolution.weight;
        TORCH_CHECK(w.dim() == 4 && w.size(2) == w.size(3) && images.size(1) == w.size(transposed ? 0 : 1) &&
                        as(bias).numel() == w.size(transposed ? 1 : 0),
                    "images of ", images.sizes(), " do not go through a window of ", w.sizes());
        const std::int64_t kernel = w.size(2);
        auto narrowed = [&](std::int64_t side) { return (side + 2 * padding - kernel) / stride + 1; };
        auto widened = [&](std::int64_t side, std::int64_t more) { return (side - 1) * stride - 2 * padding + kernel + more; };
        const std::int64_t height = images.size(2), width = images.size(3);
        convolution.window = transposed ? latente::Window{widened(height, output_padding[0]), widened(width, output_padding[1]), w.size(1),
                                                          height, width, w.size(0), kernel, stride, padding}
                                        : latente::Window{height, width, w.size(1), narrowed(height), narrowed(width), w.size(0), kernel,
                                                          stride, padding};
        Tensor result;
        {
            at::AutoDispatchBelowADInplaceOrView below;
            result = convolution.forward(images);
        }
        if (at::GradMode::is_enabled() && torch::autograd::compute_requires_grad(images, w, as(bias))) {
            node->x = images;
            node->set_next_edges(torch::autograd::collect_next_edges(images, w, as(bias)));
            torch::autograd::set_history(result, node);
            // What a node keeps of its own result must not keep the node.
            if (relu) node->out = result.detach();
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
        for (std::size_t index = 0; index < count; ++index) as(leaves[index]).mutable_grad().reset();
        {
            const latente::Destinations here(leaves, views, count);
            const auto* all = dynamic_cast<const LossBackward*>(as(loss).grad_fn().get());
            if (all != nullptr && all->is_all()) {
                at::AutoDispatchBelowADInplaceOrView below;
                all->alone();
            } else {
                torch::autograd::backward({as(loss)}, {}, /*retain_graph=*/false, /*create_graph=*/false, many(leaves, count));
            }
        }
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
