// Linear layers one after the other and their gradients, in 32 bits or with products in bfloat16: what nodes of a graph and steps
// without one share.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/FunctionRef.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace latente {

using at::Tensor;

inline const Tensor& as(const void* tensor) { return *static_cast<const Tensor*>(tensor); }

// Whether tensors of this thread count as those of another device (watch.cpp).
bool pretends_elsewhere();

// Whether the loops of kernels.h may go over it.
bool plain(const Tensor& tensor);

// Numbers that one thread takes at a time.
constexpr std::int64_t BLOCK = 4096;

// Whether libtorch has the function by which `product` multiplies.
bool has_products();

struct ProductSize {
    std::int64_t rows, columns, depth;
};

// out = a b, of matrices without gaps of which each may lie turned; with `add` it is added to what is there. `has_products` only.
void product(const float* a, bool turn_a, const float* b, bool turn_b, float* out, ProductSize size, bool add);

// Rows of so many columns that one thread takes at least.
std::int64_t rows_at_once(std::int64_t columns);

// Adds a bias to each row of `x`; `out` may be `x`.
void add_bias(const Tensor& x, const Tensor& bias, const Tensor& out, bool relu);

// What a function of `relu` that gave `seen`, where that is defined, lets through of a gradient [rows, columns], as `out`, which may
// be the gradient itself; and its sums over rows where `sums` is defined.
void let_through(const Tensor& grad, const Tensor& seen, const Tensor& out, const Tensor& sums);

// Where the gradients of a backward pass on this thread go, while it lives.
class Destinations {
   public:
    Destinations(void* const* leaves, void* const* views, std::size_t count);
    ~Destinations();
    Destinations(const Destinations&) = delete;
    Destinations& operator=(const Destinations&) = delete;

    // The view of a leaf, if it is one of this pass.
    const Tensor* of(const Tensor& leaf) const;

   private:
    void* const* leaves;
    void* const* views;
    std::size_t count;
    const Destinations* before;
};

// Adds a gradient to that of a leaf where it is kept, by `write(place, first)`; false where this thread's pass keeps none for it.
bool kept(const Tensor& leaf, c10::function_ref<void(Tensor& place, bool first)> write);

// The order is that of `Activation` in src/models/network.rs.
enum Function : std::int64_t { sigmoid, tanh, relu, leaky_relu, elu, selu, gelu, silu, softplus };

struct Stack {
    std::vector<Tensor> weights;  // of each layer, [outputs, inputs]
    std::vector<Tensor> biases;
    std::int64_t function = 0;  // follows every layer but the last
    std::int64_t code = -1;     // and this one
    bool half = false;          // whether products are taken in bfloat16

    // [rows, inputs] to [rows, outputs]. With `keeps` what a gradient is found from stays here.
    Tensor forward(const Tensor& x, bool keeps);

    // The same by operations that have graphs of their own.
    Tensor by_operations(const Tensor& x) const;

    // From the gradient of what was put out, those of what went in, of the weights and of the biases, one after the other, as far as
    // each is wanted and not kept elsewhere.
    std::vector<Tensor> backward(const Tensor& grad, c10::function_ref<bool(std::size_t)> wanted) const;

    // What went in, the weights and the biases, one after the other.
    std::vector<Tensor> leaves() const;

    void forget();

    Tensor x;  // what went in

   private:
    std::vector<Tensor> inputs;  // of each layer
    std::vector<Tensor> seen;    // of each function: what its slope is found from; nothing where there is none
    bool ours = false;           // whether the loops of kernels.h may go over all tensors
    bool tiled = false;          // whether the products of `half` are those of half.h, and all tensors of 32 bits

    bool has_function(std::size_t layer) const {
        return layer + 1 < weights.size() && static_cast<std::int64_t>(layer) != code;
    }
};

// Gradients of `output`, which was made by operations, with a graph of their own, over those of `leaves` that are wanted.
std::vector<Tensor> slopes_by_operations(const Tensor& output, const Tensor& grad, const std::vector<Tensor>& leaves,
                                         c10::function_ref<bool(std::size_t)> wanted);

}  // namespace latente
