// The three matrix products of a linear layer in bfloat16, by the tile registers of CPUs that have them (Intel's AMX). Matrices
// are 32-bit floats, row after row; what is multiplied is rounded to bfloat16 on the way into the tiles, sums are 32 bits wide.
// Each number of a result is computed by one thread in one order, whatever the number of threads.
#pragma once

#include <cstdint>

namespace latente {

// Whether this CPU has them and the system lets this process use them.
bool has_half_products();

struct LayerSize {
    std::int64_t rows;
    std::int64_t inputs;
    std::int64_t outputs;
};

// out [rows, outputs] = x [rows, inputs] times the transposed weights [outputs, inputs], and a bias of each output; with `relu` nothing
// below zero stays.
void half_forward(const float* x, const float* weights, const float* bias, bool relu, float* out, LayerSize size);

// out [rows, inputs] = grad [rows, outputs] times the weights.
void half_backward(const float* grad, const float* weights, float* out, LayerSize size);

// out [outputs, inputs] = the transposed grad times x; with `add` it is added to what is there.
void half_slope(const float* grad, const float* x, float* out, LayerSize size, bool add);

}  // namespace latente
