/* Linked into each library for Windows. Without a list of exports a linker exports everything but what MinGW starts a
library with, which it knows by the names of its files; zig gives them others. A library that took another's `atexit` would
not link: it has its own. */
__asm__(".section .drectve,\"yni\"\n"
        ".ascii \" -exclude-symbols:atexit,_CRT_INIT,__mingw_module_is_dll\"\n"
        ".text");
