// What latente asks of libtorch that tch does not offer. No exception leaves these functions: each answers 0, or 1 with a
// message in `message`, cut to `capacity` bytes and closed by a zero. A `void*` is an at::Tensor that torch-sys made; a
// tensor that is given back is the caller's.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

// One step of AdamW in place, in one pass over its tensors. `steps` were begun, this one included. On the host `squares`
// becomes the sum of the squares of the gradients, and `are_found` says so.
int latente_fused_adamw(void* parameters, void* gradients, void* first, void* second, double steps, double lr,
                        double beta1, double beta2, double weight_decay, double epsilon, double* squares, bool* are_found,
                        char* message, std::size_t capacity);

// One step of another optimizer in place, in one pass over its tensors, of which those that it goes without are empty; `squares` as
// above. Where the tensors are not 32-bit floats of the host, `are_found` says that nothing was done.
struct latente_rule {
    std::int64_t kind;  // 0: SGD, 1: RMSprop, 2: Lion
    bool nesterov;
    double lr, momentum, beta1, beta2, epsilon, weight_decay;
};
int latente_fused_rule(const latente_rule* rule, void* parameters, void* gradients, void* first, void* second, double* squares,
                       bool* are_found, char* message, std::size_t capacity);

// `count` rows of `width` floats, each less its shift and divided by its scale, with `held` between 0 and 1, as a new tensor;
// with `alone` by this thread.
int latente_scaled(const float* const* rows, std::size_t count, const float* shifts, const float* scales, std::size_t width,
                   bool held, bool alone, void** tensor, char* message, std::size_t capacity);

// The sum of the squares of a tensor's numbers.
int latente_squares(const void* tensor, double* sum, char* message, std::size_t capacity);

// Whether the loops of kernels.h may go over a tensor: 32-bit floats of the host, one after the other.
bool latente_is_plain(const void* tensor);

// For tests: has tensors of this thread count as those of another device, for which libtorch is asked; and counts, from `watch` on
// and as long as that is so, how often this thread asks a tensor for a number or for places that it holds, and so would wait for a
// GPU. Gives the count so far.
void latente_pretend_elsewhere(bool pretend);
std::uint64_t latente_watch(bool watch);

// Whether what this thread computes is recorded (trace_shim.h): then only libtorch's own operations are seen.
bool latente_is_recorded();

// Lets libtorch take products and convolutions of 32-bit floats on a GPU in TensorFloat-32.
void latente_allow_tf32();

// Linear layers one after the other, [rows, inputs] to [rows, outputs]; all but the last are followed by a function, which
// `activation` names by its number (see the enum in stack.h). One node of the graph. With `half` the matrix products
// are taken in bfloat16.
int latente_stack(void* input, void* const* weights, void* const* biases, std::size_t layers, std::int64_t activation,
                  bool half, void** output, char* message, std::size_t capacity);

// The mean over rows of -log p of values `x` [rows, columns], and a constant, under what layers make of `input` [rows, inputs]: as
// latente_stack, but that no function follows the layer `code` either. One node of the graph; `x` takes no gradient.
int latente_restored(void* input, void* x, void* const* weights, void* const* biases, std::size_t layers, std::size_t code,
                     std::int64_t activation, bool half, bool bernoulli, double constant, void** loss, char* message,
                     std::size_t capacity);

// Of a variational autoencoder, three losses: what is minimised, the mean over rows of -log p of values `x` [rows, columns] and a constant,
// and the sum over units of the mean over rows of the divergence of codes from the standard normal distribution. The first is the
// second and `weight` times the third, of whose units each counts as `least` at least. `input` [rows, inputs] takes no gradient; codes
// are drawn with `noise` [rows, latent] as by latente_gaussian_code. Layers are those of the encoder, then those of the decoder. The
// first is one node of the graph; the others have none.
int latente_variational(void* input, void* x, void* noise, void* const* weights, void* const* biases, std::size_t encoder_layers,
                        std::size_t decoder_layers, std::int64_t activation, bool half, bool bernoulli, double constant, double limit,
                        double weight, double least, void** losses, char* message, std::size_t capacity);

// The sums over the last axis of -log p of values `x`, [rows, columns], under logits (`bernoulli`) or else means of unit
// variance, without the constant: `output` is [..., rows, columns]. One node of the graph; `x` takes no gradient.
int latente_row_loss(void* output, void* x, bool bernoulli, void** sums, char* message, std::size_t capacity);

// `x` [rows, columns] and a bias of each column, with `relu` nothing below zero. 32-bit floats of the host. One node of the graph.
int latente_biased(void* x, void* bias, bool relu, void** output, char* message, std::size_t capacity);

// A convolution of images whose channels lie together, or a transposed one, with a bias of each channel, and with `relu` nothing below
// zero. `output` becomes nothing where the tensors are not 32-bit floats of the host that lie so, or the machine does not have what it
// takes. One node of the graph.
int latente_convolution(void* x, void* weight, void* bias, bool transposed, bool relu, std::int64_t stride, std::int64_t padding,
                        const std::int64_t* output_padding, void** output, char* message, std::size_t capacity);

// Draws of codes with `noise` [rows, latent] from `both` [rows, 2 * latent], means and logarithms of variances that count within
// ±limit, as `z` [rows, latent]; and the mean over rows of each unit's divergence from the standard normal distribution, as
// `divergence` [latent]. 32-bit floats of the host. One node of the graph; `noise` takes no gradient.
int latente_gaussian_code(void* both, void* noise, double limit, void** z, void** divergence, char* message, std::size_t capacity);

// The gradient of `loss` over `leaves`, written to `views`, which have their shapes: zeros where there is none. Nothing else
// takes a gradient.
int latente_backward(void* loss, void* const* leaves, void* const* views, std::size_t count, char* message,
                     std::size_t capacity);

// Recording what is computed, as TorchScript does it. Functions answer as above; tensors are an at::Tensor that torch-sys
// made, and a recording is a handle that `latente_trace_free` ends.

// Begins to record on this thread: from here on every operation on `input` and what comes of it, until `latente_trace_end`
// or `latente_trace_free`. Tensors that are made meanwhile from the memory of the caller are recorded wrongly, so they must be
// there before.
int latente_trace_begin(const void* input, const char* name, void** trace, char* message, std::size_t capacity);

// Ends the recording, whose result are the `count` tensors. What depends on no input is computed once and for all.
int latente_trace_end(void* trace, const void* const* outputs, std::size_t count, char* message, std::size_t capacity);

// Writes what was recorded as a TorchScript file.
int latente_trace_save(void* trace, const char* path, char* message, std::size_t capacity);

// The recorded operations as JSON; `text` belongs to the recording. Tensors that are constants are named by their number.
int latente_trace_graph(void* trace, const char** text, char* message, std::size_t capacity);

// A constant of the graph by its number, as a tensor that the caller frees.
int latente_trace_constant(void* trace, std::size_t number, void** tensor, char* message, std::size_t capacity);

// Frees a recording; ends it where it is still under way on this thread.
void latente_trace_free(void* trace);

}
