// kvt experiment: runs the cells of an experiment side by side, keeps what is done, and writes table and plot.
#include "tools/experiment.h"

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <mutex>
#include <regex>
#include <thread>

#include "engine/atomic_file.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/training_report.h"

namespace kvt {

using nlohmann::json;

namespace {

struct Options {
  std::string file, data, out, only;
  int jobs = 0, threads = 1;
  bool list = false;
};

void write_text(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

std::string clock_of(double seconds) {
  char text[40];
  const auto s = int64_t(seconds + 0.5);
  std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", static_cast<long long>(s / 3600), static_cast<long long>(s / 60 % 60), static_cast<long long>(s % 60));
  return text;
}

// Works off the cells that have no result yet; the first error ends it once the runs under way are done.
void work(const CellRunner& runner, const Experiment& e, const std::vector<Cell>& open, std::vector<CellResult>& results, int jobs, Report& report) {
  std::mutex guard;
  std::atomic<size_t> next{0};
  std::exception_ptr failed;
  const auto start = std::chrono::steady_clock::now();
  size_t done = 0;
  const auto worker = [&] {
    for (size_t i = next++; i < open.size(); i = next++) {
      try {
        CellResult r = runner.run(open[i]);
        const std::lock_guard lock(guard);
        results.push_back(r);
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        ++done;
        char text[100], test[40] = "";
        if (!std::isnan(r.test)) std::snprintf(test, sizeof test, "  test %.4f", r.test);
        std::snprintf(text, sizeof text, "%s  %.0f s   %s left", test, r.seconds, clock_of(seconds / double(done) * double(open.size() - done)).c_str());
        report.line("[" + std::to_string(done) + "/" + std::to_string(open.size()) + "] " + open[i].id(e) + text);
      } catch (...) {
        const std::lock_guard lock(guard);
        if (!failed) failed = std::current_exception();
        next = open.size();
      }
    }
  };
  std::vector<std::thread> workers;
  for (int i = 0; i < jobs; ++i) workers.emplace_back(worker);
  for (std::thread& w : workers) w.join();
  if (failed) std::rethrow_exception(failed);
}

void run(Options o) {
  interrupted();
  const Experiment e = Experiment::open(o.file, o.data);
  const std::vector<Cell> cells = cells_of(e);
  const std::regex only(o.only);
  const auto wanted = [&](const Cell& c) { return std::regex_search(c.id(e), only); };
  if (o.list) {
    for (const Cell& c : cells)
      if (wanted(c)) std::printf("%s\n", c.id(e).c_str());
    return;
  }
  if (o.jobs == 0) o.jobs = std::max(1, int(std::thread::hardware_concurrency()) / o.threads);
  Report report(false);
  const CellRunner runner(e, o.out, o.threads);
  std::vector<CellResult> results;
  std::vector<Cell> open;
  for (const Cell& c : cells) {
    if (const auto r = runner.stored(c)) results.push_back(*r);
    else if (wanted(c)) open.push_back(c);
  }
  report.line(e.name + ": " + std::to_string(cells.size()) + " runs, " + std::to_string(results.size()) + " done before, " + std::to_string(open.size()) + " to do; " + std::to_string(o.jobs) + " at a time with " +
              std::to_string(o.threads) + " thread(s) each");
  work(runner, e, open, results, o.jobs, report);
  const std::vector<Row> rows = rows_of(e, results);
  const std::string table = table_of(e, rows, results);
  write_text(o.out + "/table.md", table);
  write_text(o.out + "/plot.svg", plot_of(e, rows));
  std::printf("%s", table.c_str());
  report.line("wrote " + o.out + "/table.md and plot.svg");
}

}  // namespace

void add_experiment(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("experiment", "compare methods of adaptation: rates, seeds, sizes, domains; table and plot");
  c->add_option("file", o->file, "JSON file (tools/experiments/README.md)")->required();
  c->add_option("--data", o->data, "folder that the file's paths are relative to (default: the current one)");
  auto* out = c->add_option("-o,--out", o->out, "folder for results; runs whose result lies there are not repeated");
  c->add_option("-j,--jobs", o->jobs, "runs at a time (default: as many as there are cores for)")->check(CLI::Range(1, 1024));
  c->add_option("-t,--threads", o->threads, "threads of each run (default 1)")->check(CLI::Range(1, 1024));
  c->add_option("--only", o->only, "do the runs whose names (--list) this regular expression finds; the table is of all that are done")
      ->check([](const std::string& text) {
        try {
          std::regex{text};
        } catch (const std::regex_error& error) {
          return "'" + text + "': " + error.what();
        }
        return std::string();
      });
  auto* list = c->add_flag("--list", o->list, "print the names of all runs and do none");
  c->footer("Examples:\n  kvt experiment tools/experiments/domains.json --data ../shared/data -o results\n"
            "  kvt experiment tools/experiments/domains.json --data ../shared/data -o results --only 'finance-(base|16384-(KVT|LoRA)).*-[012]$'");
  c->callback([o, out, list] {
    if (out->count() + list->count() == 0) throw CLI::RequiredError("--out");
    run(*o);
  });
}

}  // namespace kvt
