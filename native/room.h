// Memory of a thread that is used again, at the beginning of a line of the cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace latente {

template <typename Number>
class Room {
   public:
    // Room for so many numbers; it only grows, and what was in it is lost then.
    Number* of(std::int64_t count) {
        if (count > held) {
            const std::size_t lines = (static_cast<std::size_t>(count) * sizeof(Number) + LINE_BYTES - 1) / LINE_BYTES;
            memory.reset(static_cast<Number*>(std::aligned_alloc(LINE_BYTES, lines * LINE_BYTES)));
            held = memory ? count : 0;
            if (!memory) throw std::bad_alloc();
        }
        return memory.get();
    }

   private:
    static constexpr std::size_t LINE_BYTES = 64;

    struct Free {
        void operator()(Number* place) const { std::free(place); }
    };
    std::unique_ptr<Number, Free> memory;
    std::int64_t held = 0;
};

}  // namespace latente
