// Keeps exceptions on this side.
#pragma once

#include <c10/util/Exception.h>

#include <cstdio>
#include <exception>

// Runs `work`; an exception becomes a message.
template <typename Work>
int caught(char* message, std::size_t capacity, Work work) {
    try {
        work();
        return 0;
    } catch (const c10::Error& error) {
        std::snprintf(message, capacity, "%s", error.what_without_backtrace());
    } catch (const std::exception& error) {
        std::snprintf(message, capacity, "%s", error.what());
    } catch (...) {
        std::snprintf(message, capacity, "an exception of an unknown kind");
    }
    return 1;
}
