// What latente asks of libtorch that tch does not offer. No exception leaves these functions.
#pragma once

#include <cstddef>

extern "C" {

// One step of AdamW in place, in one pass over its tensors. Every pointer but the last is an at::Tensor that torch-sys
// made; `steps` holds one float, the steps begun with this one. Answers 0, or 1 with a message in `message`, cut to
// `capacity` bytes and closed by a zero.
int latente_fused_adamw(void* parameters, void* gradients, void* first, void* second, void* steps, double lr,
                        double beta1, double beta2, double weight_decay, double epsilon, char* message,
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
