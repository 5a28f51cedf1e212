// A QEMU plugin for one-threaded AArch64 programs: how often each translated block runs in each section of the program, and how many
// lines its data miss in two levels of cache.
//
//   cc -O2 -shared -fPIC blocks.c -o blocks.so
//   qemu-aarch64 -cpu cortex-a72 -plugin ./blocks.so,out=FILE,l1=32768:2,l2=1048576:16 PROGRAM      sizes in bytes : ways
//
// The program marks its sections by a system call that does nothing anywhere: close(-1 - n) begins section n, close(-1) ends it.
// What FILE then holds, numbers in decimal, addresses and instructions in hexadecimal:
//
//   section N L1_MISSES L2_MISSES
//   runs BLOCK COUNT                  once for each block that ran in the section above
//   block BLOCK ADDRESS WORD…         at the end: the instructions of every block
//
// Caches: lines of 64 bytes, least recently used, allocated by writes too, inclusive of nothing, no prefetch. They stay warm from one
// section to the next. Debian's qemu-user takes plugins but comes without qemu-plugin.h, so what is used of version 1 is declared here.
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VISIBLE __attribute__((visibility("default")))

typedef uint64_t Id;
typedef struct qemu_plugin_tb Translation;
typedef struct qemu_plugin_insn Instruction;
enum { without_registers = 0, add_u64 = 0, reads_and_writes = 3, close_call = 57 };

void qemu_plugin_register_vcpu_tb_trans_cb(Id, void (*)(Id, Translation*));
void qemu_plugin_register_vcpu_tb_exec_inline(Translation*, int op, void* counter, uint64_t step);
void qemu_plugin_register_vcpu_mem_cb(Instruction*, void (*)(unsigned cpu, uint32_t info, uint64_t address, void*), int flags, int rw, void*);
void qemu_plugin_register_vcpu_syscall_cb(
    Id, void (*)(Id, unsigned cpu, int64_t call, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
void qemu_plugin_register_atexit_cb(Id, void (*)(Id, void*), void*);
size_t qemu_plugin_tb_n_insns(const Translation*);
uint64_t qemu_plugin_tb_vaddr(const Translation*);
Instruction* qemu_plugin_tb_get_insn(const Translation*, size_t);
const void* qemu_plugin_insn_data(const Instruction*);
unsigned qemu_plugin_mem_size_shift(uint32_t info);

VISIBLE int qemu_plugin_version = 1;

// --- caches ---

typedef struct { uint64_t *lines, sets, ways, misses; } Cache;      // lines[set][way], the most recently used first
static Cache l1 = {.sets = 256, .ways = 2}, l2 = {.sets = 1024, .ways = 16};

// Moves the line to the front of its set; what stood before it, or all of the set, moves back by one.
static bool holds(Cache* c, uint64_t line) {
  uint64_t *way = c->lines + line % c->sets * c->ways, next = line;
  for (uint64_t i = 0; i < c->ways; ++i) {
    const uint64_t here = way[i];
    way[i] = next;
    if (here == line) return true;
    next = here;
  }
  ++c->misses;
  return false;
}

static void on_access(unsigned cpu, uint32_t info, uint64_t address, void* nothing) {
  (void)cpu, (void)nothing;
  const uint64_t first = address >> 6, last = (address + (1u << qemu_plugin_mem_size_shift(info)) - 1) >> 6;
  for (uint64_t line = first; line <= last; ++line)
    if (!holds(&l1, line)) holds(&l2, line);
}

static void make(Cache* c, const char* size_and_ways) {
  uint64_t bytes = 0, ways = 0;
  if (size_and_ways && sscanf(size_and_ways, "%" SCNu64 ":%" SCNu64, &bytes, &ways) == 2 && ways && bytes / 64 / ways) {
    c->ways = ways;
    c->sets = bytes / 64 / ways;
  }
  c->lines = malloc(c->sets * c->ways * sizeof *c->lines);
  memset(c->lines, 0xff, c->sets * c->ways * sizeof *c->lines);
}

// --- blocks ---

typedef struct Block {
  struct Block* next;
  uint64_t runs, address, size;
  uint32_t words[];
} Block;

static Block* blocks;             // all of them
static FILE* out;
static int section;               // 0: none

// QEMU translates a block again when its cache of translations was full: the counter must be the old one.
static Block* find_or_add(const Translation* t) {
  const uint64_t size = qemu_plugin_tb_n_insns(t), address = qemu_plugin_tb_vaddr(t);
  for (Block* b = blocks; b; b = b->next)
    if (b->address == address && b->size == size) return b;
  Block* const b = calloc(1, sizeof *b + size * sizeof *b->words);
  b->next = blocks, b->address = address, b->size = size;
  for (uint64_t i = 0; i < size; ++i) memcpy(b->words + i, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(t, i)), 4);
  return blocks = b;
}

static void on_translation(Id id, Translation* t) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_inline(t, add_u64, &find_or_add(t)->runs, 1);
  for (size_t i = 0; i < qemu_plugin_tb_n_insns(t); ++i)
    qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(t, i), on_access, without_registers, reads_and_writes, NULL);
}

static void on_call(Id id, unsigned cpu, int64_t call, uint64_t a, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)id, (void)cpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
  const int32_t file = (int32_t)a;
  if (call != close_call || file >= 0) return;
  if (section > 0) {
    fprintf(out, "section %d %" PRIu64 " %" PRIu64 "\n", section, l1.misses, l2.misses);
    for (const Block* b = blocks; b; b = b->next)
      if (b->runs) fprintf(out, "runs %p %" PRIu64 "\n", (const void*)b, b->runs);
  }
  section = -1 - file;
  l1.misses = l2.misses = 0;
  for (Block* b = blocks; b; b = b->next) b->runs = 0;
}

static void on_exit_of_program(Id id, void* nothing) {
  (void)id, (void)nothing;
  for (const Block* b = blocks; b; b = b->next) {
    fprintf(out, "block %p %" PRIx64, (const void*)b, b->address);
    for (uint64_t i = 0; i < b->size; ++i) fprintf(out, " %08" PRIx32, b->words[i]);
    fputc('\n', out);
  }
  fclose(out);
}

VISIBLE int qemu_plugin_install(Id id, const void* qemu, int argc, char** argv) {
  (void)qemu;
  const char *path = "blocks.txt", *first = NULL, *second = NULL;
  for (int i = 0; i < argc; ++i) {
    if (!strncmp(argv[i], "out=", 4)) path = argv[i] + 4;
    else if (!strncmp(argv[i], "l1=", 3)) first = argv[i] + 3;
    else if (!strncmp(argv[i], "l2=", 3)) second = argv[i] + 3;
    else return fprintf(stderr, "blocks: no option '%s'\n", argv[i]), 1;
  }
  make(&l1, first);
  make(&l2, second);
  if (!(out = fopen(path, "w"))) return perror(path), 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  qemu_plugin_register_vcpu_syscall_cb(id, on_call);
  qemu_plugin_register_atexit_cb(id, on_exit_of_program, NULL);
  return 0;
}
