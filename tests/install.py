#!/usr/bin/env python3
"""The library as others find it: installed into a prefix, by pkg-config, by CMake, statically, as a meson subproject; and the cross file for
Android, held against a stand-in for the NDK. Each builds examples of tools/examples and runs one.

usage: install.py FOLDER [step …]       works in FOLDER; steps: prefix pkgconfig static cmake subproject android (default: all)
"""
import json, os, pathlib, shutil, subprocess, sys

root = pathlib.Path(__file__).resolve().parent.parent
folder = pathlib.Path(sys.argv[1]).resolve()
steps = sys.argv[2:] or ["prefix", "pkgconfig", "static", "cmake", "subproject", "android"]
prefix = folder / "prefix"
tiny = root / "tools/demo/tiny.gguf"
examples = root / "tools/examples"
libraries = prefix / "lib"


def run(*command, cwd=folder, **environment):
    p = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment})
    if p.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit status {p.returncode}\n{p.stdout[-3000:]}{p.stderr[-3000:]}")
    return p.stdout


def fresh(name):
    place = folder / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


def check(program, **environment):
    out = run(program, tiny, "Once upon a time", **environment)
    assert out.startswith("Once upon a time") and len(out) > 60, out


def pkg_config(*arguments):
    return run("pkg-config", *arguments, "kvt", PKG_CONFIG_PATH=str(libraries / "pkgconfig")).split()


def step_prefix():
    build = folder / "build"
    if not (build / "build.ninja").exists():
        run("meson", "setup", build, root, f"--prefix={prefix}", "-Dlibdir=lib", "-Dtools=disabled")
    shutil.rmtree(prefix, ignore_errors=True)
    run("ninja", "-C", build, "libkvt.a", "libkvt.so.0.1.0")
    run("meson", "install", "-C", build, "--no-rebuild")
    files = sorted(str(p.relative_to(prefix)) for p in prefix.rglob("*") if not p.is_dir())
    assert files == ["include/kvt.h", "lib/cmake/kvt/kvt-config-version.cmake", "lib/cmake/kvt/kvt-config.cmake", "lib/libkvt.a", "lib/libkvt.so", "lib/libkvt.so.0",
                     "lib/libkvt.so.0.1.0", "lib/pkgconfig/kvt.pc"], files
    return f"{len(files)} files"


def step_pkgconfig():
    place = fresh("pkgconfig")
    for source in ("hello.c", "adapt.c", "search.c"):
        run("cc", "-std=c11", "-Wall", "-Werror", examples / source, "-o", place / source[:-2], *pkg_config("--cflags", "--libs"))
    run("c++", "-std=c++17", "-Wall", "-Werror", examples / "two_voices.cpp", "-o", place / "two_voices", *pkg_config("--cflags", "--libs"))
    check(place / "hello", LD_LIBRARY_PATH=str(libraries))
    return "version " + pkg_config("--modversion")[0]


def step_static():
    place = fresh("static")
    flags = [f for f in pkg_config("--static", "--libs") if f != "-lkvt"]
    run("cc", "-std=c11", examples / "hello.c", "-o", place / "hello", *pkg_config("--cflags"), libraries / "libkvt.a", *flags)
    check(place / "hello")
    return f"{(place / 'hello').stat().st_size / 1e6:.1f} MB"


def step_cmake():
    place = fresh("cmake")
    (place / "CMakeLists.txt").write_text(f"""cmake_minimum_required(VERSION 3.16)
project(user C CXX)
find_package(kvt 0.1 REQUIRED)
add_executable(hello {examples}/hello.c)
target_link_libraries(hello kvt::kvt)
add_executable(hello_static {examples}/hello.c)
target_link_libraries(hello_static kvt::static)
""")
    run("cmake", "-S", place, "-B", place / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", place / "build")
    check(place / "build/hello", LD_LIBRARY_PATH=str(libraries))
    check(place / "build/hello_static")
    p = subprocess.run(["cmake", "-S", str(place), "-B", str(place / "other"), f"-DCMAKE_PREFIX_PATH={prefix}"], capture_output=True, text=True)
    assert p.returncode == 0
    (place / "CMakeLists.txt").write_text("cmake_minimum_required(VERSION 3.16)\nproject(user C)\nfind_package(kvt 9.9 REQUIRED)\n")
    p = subprocess.run(["cmake", "-S", str(place), "-B", str(place / "other"), f"-DCMAKE_PREFIX_PATH={prefix}"], capture_output=True, text=True)
    assert p.returncode != 0 and "9.9" in p.stderr          # a version that is not there
    return "shared and static"


def step_subproject():
    place = fresh("subproject")
    (place / "subprojects").mkdir()
    (place / "subprojects/kvt").symlink_to(root)
    (place / "meson.build").write_text("""project('user', 'c', 'cpp', default_options: 'buildtype=release')
kvt = dependency('kvt', fallback: 'kvt', default_options: ['tools=disabled', 'models=llama'])
executable('hello', 'hello.c', dependencies: kvt, override_options: 'c_std=c11')
""")
    shutil.copy(examples / "hello.c", place)
    run("meson", "setup", place / "build", place)
    run("ninja", "-C", place / "build", "hello")
    check(place / "build/hello")
    return "static, models llama alone"


# What the cross file names, by the Debian cross compiler: that all of it is found, and the library compiles by it.
def step_android():
    place = fresh("android")
    tools = place / "ndk/toolchains/llvm/prebuilt/linux-x86_64/bin"
    tools.mkdir(parents=True)
    for name, real in {"aarch64-linux-android28-clang": "gcc", "aarch64-linux-android28-clang++": "g++", "llvm-ar": "ar", "llvm-nm": "nm", "llvm-strip": "strip"}.items():
        (tools / name).symlink_to(shutil.which(f"aarch64-linux-gnu-{real}") or sys.exit(f"no aarch64-linux-gnu-{real}"))
    (place / "ndk.ini").write_text(f"[constants]\nndk = '{place}/ndk'\n")
    (place / "include").mkdir()
    (place / "include/xsimd").symlink_to("/usr/include/xsimd")
    run("meson", "setup", place / "build", root, "--cross-file", root / "arm/android.ini", "--cross-file", place / "ndk.ini", "-Dopenblas=disabled", "-Dtools=disabled",
        "-Doptimization=s", f"-Dcpp_args=-isystem{place}/include")
    targets = json.loads(run("meson", "introspect", "--targets", place / "build"))
    library = next(t["filename"][0] for t in targets if t["type"] == "shared library")      # with a version in its name, or as Android has it without
    run("ninja", "-C", place / "build", os.path.relpath(library, place / "build"))
    needed = [line.split("[")[1][:-1] for line in run("readelf", "-d", library).splitlines() if "(NEEDED)" in line]
    assert not any("stdc++" in n for n in needed), needed
    return "needs " + ", ".join(needed)


folder.mkdir(parents=True, exist_ok=True)
for step in steps:
    print(f"{step:<12}", end="", flush=True)
    print(globals()["step_" + step]())
