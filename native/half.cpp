#include "half.h"
#include "kernels.h"
#include "room.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdlib>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TILED __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512bf16")))

namespace latente {

namespace {

using Half = std::uint16_t;

// A tile has 16 rows of 16 pairs of numbers. Of the left matrix a row is a row and a pair two neighbours in it; of the right one
// a row is two rows and a pair the two numbers of a column. Tiles lie one after the other, those of one row or column of tiles
// together.
constexpr std::int64_t SIDE = 16;
constexpr std::int64_t DEPTH = 32;
constexpr std::int64_t TILE = SIDE * DEPTH;
constexpr std::int64_t LINE_BYTES = 64;

std::int64_t tiles(std::int64_t count, std::int64_t side) { return (count + side - 1) / side; }

thread_local Room<Half> shared_room;  // of the thread that asks: read by all
thread_local Room<Half> own_room;

struct alignas(64) Config {
    std::uint8_t palette = 1;
    std::uint8_t start = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The compiler does not know that tiles read and write memory.
inline void settle() { __asm__ volatile("" ::: "memory"); }

struct Tiles {
    TILED Tiles() {
        static const Config config;
        _tile_loadconfig(&config);
    }
    TILED ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

inline __mmask16 mask(std::int64_t left) {
    return left >= SIDE ? 0xffff : left <= 0 ? 0 : static_cast<__mmask16>((1u << left) - 1);
}

// 32 numbers of a row, of which `left` are there.
TILED inline __m512i neighbours(const float* row, std::int64_t left) {
    const __m512 low = _mm512_maskz_loadu_ps(mask(left), row), high = _mm512_maskz_loadu_ps(mask(left - SIDE), row + SIDE);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

// 16 columns of two rows, of which `columns` and `rows` are there.
TILED inline __m512i pairs(const float* row, std::int64_t stride, std::int64_t rows, std::int64_t columns) {
    const __mmask16 low = rows > 0 ? mask(columns) : 0, high = rows > 1 ? mask(columns) : 0;
    const __m256i first = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(low, row));
    const __m256i second = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(high, row + stride));
    return _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}

// Rows of 16 numbers of 32 bits become columns.
TILED inline void turn(__m512i* r) {
    __m512i t[SIDE];
    for (int i = 0; i < 8; ++i) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; ++i) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; ++i) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

// 16 lines of a matrix [lines, length] from `line` on, as tiles along them: as they are for the left side of a product, turned
// for the right side of one with the transposed matrix.
TILED void pack_lines(const float* matrix, std::int64_t lines, std::int64_t length, std::int64_t line, bool turned, Half* out) {
    for (std::int64_t start = 0; start < length; start += DEPTH, out += TILE) {
        __m512i rows[SIDE];
        for (std::int64_t row = 0; row < SIDE; ++row) {
            const bool there = line + row < lines;
            rows[row] = there ? neighbours(matrix + (line + row) * length + start, length - start) : _mm512_setzero_si512();
        }
        if (turned) turn(rows);
        for (std::int64_t row = 0; row < SIDE; ++row) _mm512_store_si512(out + row * DEPTH, rows[row]);
    }
}

// 16 columns of a matrix [lines, length] from `column` on, as tiles down them: as they are for the right side of a product,
// turned for the left side of one with the transposed matrix.
TILED void pack_columns(const float* matrix, std::int64_t lines, std::int64_t length, std::int64_t column, bool turned, Half* out) {
    for (std::int64_t start = 0; start < lines; start += DEPTH, out += TILE) {
        __m512i rows[SIDE];
        for (std::int64_t row = 0; row < SIDE; ++row) {
            const std::int64_t line = start + 2 * row;
            rows[row] = line < lines ? pairs(matrix + line * length + column, length, lines - line, length - column)
                                     : _mm512_setzero_si512();
        }
        if (turned) turn(rows);
        for (std::int64_t row = 0; row < SIDE; ++row) _mm512_store_si512(out + row * DEPTH, rows[row]);
    }
}

// Part of a result: where it lies, how long its lines are, and how many lines and columns of it are there.
struct Place {
    float* at;
    std::int64_t stride;
    std::int64_t lines;
    std::int64_t columns;
    bool add;

    Place part(std::int64_t line, std::int64_t column) const {
        return {at + line * stride + column, stride, lines - line, columns - column, add};
    }
    bool takes_tiles() const { return !add && lines >= SIDE && columns >= SIDE; }
};

// What of a tile is there.
TILED void spill(const float* tile, const Place& place) {
    const __mmask16 there = mask(place.columns);
    for (std::int64_t line = 0; line < std::min(SIDE, place.lines); ++line) {
        float* at = place.at + line * place.stride;
        __m512 sum = _mm512_load_ps(tile + line * SIDE);
        if (place.add) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(there, at));
        _mm512_mask_storeu_ps(at, there, sum);
    }
}

#define STORE(tile, place)                                                     \
    do {                                                                       \
        const Place there = place;                                             \
        if (there.takes_tiles()) {                                             \
            _tile_stored(tile, there.at, there.stride * sizeof(float));        \
        } else {                                                               \
            alignas(64) float values[SIDE * SIDE];                             \
            _tile_stored(tile, values, LINE_BYTES);                            \
            settle();                                                          \
            spill(values, there);                                              \
        }                                                                      \
    } while (false)

// One or two rows of tiles times one or two columns of tiles, `depth` tiles long.
template <int ROWS, int COLUMNS>
TILED void multiply(const Half* left, const Half* right, std::int64_t depth, const Place& place) {
    const Half *left2 = left + depth * TILE, *right2 = right + depth * TILE;
    _tile_zero(0);
    if constexpr (COLUMNS > 1) _tile_zero(1);
    if constexpr (ROWS > 1) _tile_zero(2);
    if constexpr (ROWS > 1 && COLUMNS > 1) _tile_zero(3);
    for (std::int64_t step = 0; step < depth * TILE; step += TILE) {
        _tile_loadd(4, left + step, LINE_BYTES);
        _tile_loadd(6, right + step, LINE_BYTES);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (COLUMNS > 1) {
            _tile_loadd(7, right2 + step, LINE_BYTES);
            _tile_dpbf16ps(1, 4, 7);
        }
        if constexpr (ROWS > 1) {
            _tile_loadd(5, left2 + step, LINE_BYTES);
            _tile_dpbf16ps(2, 5, 6);
        }
        if constexpr (ROWS > 1 && COLUMNS > 1) _tile_dpbf16ps(3, 5, 7);
    }
    STORE(0, place);
    if constexpr (COLUMNS > 1) STORE(1, place.part(0, SIDE));
    if constexpr (ROWS > 1) STORE(2, place.part(SIDE, 0));
    if constexpr (ROWS > 1 && COLUMNS > 1) STORE(3, place.part(SIDE, SIDE));
    settle();
}

// Up to two rows of tiles by up to two columns of tiles.
void multiply(const Half* left, std::int64_t rows, const Half* right, std::int64_t columns, std::int64_t depth, const Place& place) {
    if (rows > 1) {
        columns > 1 ? multiply<2, 2>(left, right, depth, place) : multiply<2, 1>(left, right, depth, place);
    } else {
        columns > 1 ? multiply<1, 2>(left, right, depth, place) : multiply<1, 1>(left, right, depth, place);
    }
}

// Two columns of tiles of a result at a time: `pack(column, out)` gives those of the right side, of which each is used by the one
// thread that made it; `left` has all rows of the left side. `finish(column, columns)` comes when those of the result are whole.
template <typename Pack, typename Finish>
void by_columns(const Half* left, std::int64_t depth, const Place& whole, Pack pack, Finish finish) {
    const std::int64_t rows = tiles(whole.lines, SIDE), columns = tiles(whole.columns, SIDE);
    at::parallel_for(0, tiles(columns, 2), 1, [&](std::int64_t start, std::int64_t end) {
        Half* right = own_room.of(2 * depth * TILE);
        const Tiles tiled;
        for (std::int64_t column = 2 * start; column < std::min(2 * end, columns); column += 2) {
            const std::int64_t wide = std::min<std::int64_t>(2, columns - column);
            for (std::int64_t one = 0; one < wide; ++one) pack((column + one) * SIDE, right + one * depth * TILE);
            settle();
            for (std::int64_t row = 0; row < rows; row += 2) {
                multiply(left + row * depth * TILE, std::min<std::int64_t>(2, rows - row), right, wide, depth,
                         whole.part(row * SIDE, column * SIDE));
            }
            finish(column * SIDE, std::min(wide * SIDE, whole.columns - column * SIDE));
        }
    });
}

// All of a matrix [lines, length] as the left side of a product, in the memory that all threads read.
const Half* left_side(const float* matrix, std::int64_t lines, std::int64_t length) {
    const std::int64_t depth = tiles(length, DEPTH), rows = tiles(lines, SIDE);
    Half* left = shared_room.of(rows * depth * TILE);
    at::parallel_for(0, rows, 1, [&](std::int64_t start, std::int64_t end) {
        for (std::int64_t row = start; row < end; ++row) {
            pack_lines(matrix, lines, length, row * SIDE, false, left + row * depth * TILE);
        }
    });
    return left;
}

bool asked() {
    if (!__builtin_cpu_supports("amx-tile") || !__builtin_cpu_supports("amx-bf16") || !__builtin_cpu_supports("avx512bf16") ||
        !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")) {
        return false;
    }
    // Linux gives a process the tiles when it asks for their state, ARCH_REQ_XCOMP_PERM of XFEATURE_XTILEDATA.
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}

}  // namespace

bool has_half_products() {
    static const bool has = asked();
    return has;
}

void half_forward(const float* x, const float* weights, const float* bias, bool relu, float* out, LayerSize size) {
    const std::int64_t depth = tiles(size.inputs, DEPTH);
    const Half* left = left_side(x, size.rows, size.inputs);
    by_columns(
        left, depth, {out, size.outputs, size.rows, size.outputs, false},
        [&](std::int64_t column, Half* right) { pack_lines(weights, size.outputs, size.inputs, column, true, right); },
        [&](std::int64_t column, std::int64_t columns) {
            for (std::int64_t row = 0; row < size.rows; ++row) {
                float* place = out + row * size.outputs + column;
                add_bias(place, bias + column, place, columns, relu);
            }
        });
}

void half_backward(const float* grad, const float* weights, float* out, LayerSize size) {
    const std::int64_t depth = tiles(size.outputs, DEPTH);
    const Half* left = left_side(grad, size.rows, size.outputs);
    by_columns(
        left, depth, {out, size.inputs, size.rows, size.inputs, false},
        [&](std::int64_t column, Half* right) { pack_columns(weights, size.outputs, size.inputs, column, false, right); },
        [](std::int64_t, std::int64_t) {});
}

void half_slope(const float* grad, const float* x, float* out, LayerSize size, bool add) {
    const std::int64_t depth = tiles(size.rows, DEPTH), columns = tiles(size.inputs, SIDE), rows = tiles(size.outputs, SIDE);
    Half* right = shared_room.of(columns * depth * TILE);
    at::parallel_for(0, columns, 4, [&](std::int64_t start, std::int64_t end) {
        for (std::int64_t column = start; column < end; ++column) {
            pack_columns(x, size.rows, size.inputs, column * SIDE, false, right + column * depth * TILE);
        }
    });
    const Place whole{out, size.inputs, size.outputs, size.inputs, add};
    at::parallel_for(0, tiles(rows, 2), 1, [&](std::int64_t start, std::int64_t end) {
        Half* left = own_room.of(2 * depth * TILE);
        const Tiles tiled;
        for (std::int64_t row = 2 * start; row < std::min(2 * end, rows); row += 2) {
            const std::int64_t high = std::min<std::int64_t>(2, rows - row);
            for (std::int64_t one = 0; one < high; ++one) {
                pack_columns(grad, size.rows, size.outputs, (row + one) * SIDE, true, left + one * depth * TILE);
            }
            settle();
            for (std::int64_t column = 0; column < columns; column += 2) {
                multiply(left, high, right + column * depth * TILE, std::min<std::int64_t>(2, columns - column), depth,
                         whole.part(row * SIDE, column * SIDE));
            }
        }
    });
}

}  // namespace latente

#else

namespace latente {

bool has_half_products() { return false; }
void half_forward(const float*, const float*, const float*, bool, float*, LayerSize) { std::abort(); }
void half_backward(const float*, const float*, float*, LayerSize) { std::abort(); }
void half_slope(const float*, const float*, float*, LayerSize, bool) { std::abort(); }

}  // namespace latente

#endif
