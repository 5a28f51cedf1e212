"""llama.cpp as a peer: building it from the source package on PyPI, its model files, one run of its tools."""
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time

PACKAGE = "llama-cpp-python==0.3.36"
TARGETS = ["llama-bench", "llama-completion", "llama-quantize", "llama-perplexity"]
NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"


def run(command, **options):
    done = subprocess.run(command, text=True, capture_output=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} … failed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return done


def measured(command):
    """Seconds, peak resident megabytes and standard error of a finished command."""
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed:\n{errors[-2000:]}")
    return time.monotonic() - start, usage.ru_maxrss / 1024, errors


def cpu_flags():
    return set(re.search(r"^(?:flags|Features)\s*:\s*(.*)", open("/proc/cpuinfo").read(), re.M)[1].split())


def builds():
    """{name in the report: folder of the build}. Where the processor has AMX the same source is built a second time without it. Built by GCC 12
    it crashes on such processors: without clang there is one build, and that leaves AMX out."""
    if "amx_int8" in cpu_flags() and shutil.which("clang-19"):
        return {"llama.cpp AMX": "llama", "llama.cpp AVX-512": "llama-noamx"}
    return {"llama.cpp": "llama"}


def build(folder):
    os.makedirs(folder, exist_ok=True)
    source = f"{folder}/source"
    if not os.path.isdir(source):
        if not glob.glob(f"{folder}/llama_cpp_python-*.tar.gz"):
            run([sys.executable, "-m", "pip", "download", "-q", "--no-binary", ":all:", "--no-deps", "--no-build-isolation", "-d", folder, PACKAGE])
        with tarfile.open(glob.glob(f"{folder}/llama_cpp_python-*.tar.gz")[0]) as package:
            package.extractall(folder)
        os.rename(glob.glob(f"{folder}/llama_cpp_python-*/")[0], source)
    clang = shutil.which("clang-19")
    for name, target in builds().items():
        without_amx = (target == "llama-noamx" or not clang) and os.uname().machine == "x86_64"
        flags = [f"-DCMAKE_{c}_FLAGS={NO_AMX}" for c in ("C", "CXX")] if without_amx else []
        compiler = ["-DCMAKE_C_COMPILER=clang-19", "-DCMAKE_CXX_COMPILER=clang++-19"] if clang else []
        if not os.path.exists(f"{folder}/{target}/build.ninja"):
            run(["cmake", "-S", f"{source}/vendor/llama.cpp", "-B", f"{folder}/{target}", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
                 "-DGGML_OPENMP=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_TESTS=OFF", *compiler, *flags])
        if any(not os.path.exists(f"{folder}/{target}/bin/{t}") for t in TARGETS):
            print(f"building {name}: minutes", file=sys.stderr)
            subprocess.run(["ninja", "-C", f"{folder}/{target}", *TARGETS], check=True)


def compiler(folder):
    return os.path.basename(re.search(r"CMAKE_CXX_COMPILER:\w+=(.*)", open(f"{folder}/llama/CMakeCache.txt").read())[1])


def model_file(folder, model, type_name):
    """`model` in another type by llama-quantize, through F32: its weights are those of the file it comes from, rounded once more."""
    base = os.path.basename(model).removesuffix(".gguf")
    name, own = base.rsplit(".", 1) if "." in base else (base, "")
    if type_name == own:
        return model
    path = f"{folder}/models/{name}.{type_name}.gguf"
    if not os.path.exists(path):
        os.makedirs(f"{folder}/models", exist_ok=True)
        source = model if type_name == "F32" else model_file(folder, model, "F32")
        run([f"{folder}/llama/bin/llama-quantize", "--allow-requantize", source, path + ".new", type_name])
        os.replace(path + ".new", path)
    return path


def bench(build_folder, model, threads, prompt, generated):
    """Tokens/s of reading `prompt` tokens, or of writing `generated` ones, after a pass that warms up."""
    tests = json.loads(run([f"{build_folder}/bin/llama-bench", "-m", model, "-t", str(threads), "-p", str(prompt), "-n", str(generated), "-r", "1", "-o", "json"]).stdout)
    return tests[0]["avg_ts"]


def completion(build_folder, model, threads, prompt, tokens):
    """Seconds and peak megabytes of the process."""
    return measured([f"{build_folder}/bin/llama-completion", "-m", model, "-p", prompt, "-t", str(threads), "-c", "512", "--temp", "0", "-no-cnv",
                     "--ignore-eos", "-n", str(tokens)])[:2]
