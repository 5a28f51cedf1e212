// kvt experiment: runs the cells of an experiment side by side, keeps what is done, and writes table and plot.
#include "tools/experiment.h"

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <sstream>
#include <thread>

#include "engine/atomic_file.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/process.h"
#include "tools/train_config.h"
#include "tools/training_report.h"

namespace kvt {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

struct Options {
  std::string file, data, out;
  int jobs = 0, threads = 1;
  bool list = false;
};

void write_text(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

json to_json(const CellResult& r) {
  const auto number = [](double x) { return std::isnan(x) ? json(nullptr) : json(x); };
  return {{"validation", number(r.validation)}, {"test", r.test}, {"fused_validation", number(r.fused_validation)}, {"fused", number(r.fused)},
          {"trained", r.trained}, {"stored", r.stored}, {"memory", r.memory}, {"seconds", r.seconds}, {"passes", r.passes}};
}

std::optional<CellResult> read_cell(const std::string& path, const Cell& cell) {
  if (!fs::exists(path)) return std::nullopt;
  const json o = json::parse(read_text(path), nullptr, false);
  CellResult r;
  r.cell = cell;
  const auto number = [&](const char* key) {
    const auto found = o.is_object() ? o.find(key) : o.end();
    require(o.is_object() && found != o.end() && (found->is_number() || found->is_null()), path, ": not the result of a run: no number \"", key, "\"; remove it to run the cell again");
    return found->is_null() ? std::nan("") : found->get<double>();
  };
  r.validation = number("validation"), r.test = number("test"), r.fused_validation = number("fused_validation"), r.fused = number("fused");
  r.trained = number("trained"), r.stored = number("stored"), r.memory = number("memory"), r.seconds = number("seconds"), r.passes = number("passes");
  return r;
}

class Runner {
 public:
  Runner(const Experiment& e, const Options& o) : e_(e), o_(o), kvt_(own_program()) {
    fs::create_directories(o.out + "/cells");
    for (const ExperimentDomain& d : e.domains) texts_.push_back(read_text(d.text));
  }

  CellResult run(const Cell& cell) const {
    const std::string stem = o_.out + "/cells/" + cell.id(e_);
    CellResult r;
    r.cell = cell;
    r.validation = r.fused_validation = r.fused = std::nan("");
    const int64_t size = cell.size > 0 ? cell.size : e_.sizes.front();
    const TextParts parts = parts_of(texts_[cell.domain], e_, size, cell.seed, e_.domains[cell.domain].text);
    const std::string train = stem + ".train.txt", valid = stem + ".valid.txt", test = stem + ".test.txt", out = stem + ".gguf";
    write_text(test, parts.test);
    if (!cell.method) {
      r.test = loss(e_.model, {}, test);
    } else {
      const ExperimentMethod& m = e_.methods[*cell.method];
      const std::string& base = m.model.empty() ? e_.model : m.model;
      write_text(train, parts.train);
      write_text(valid, parts.validation);
      adapt(cell, m, base, train, valid, out, r);
      const std::vector<std::string> adapter = {"--adapter", out};
      std::vector<std::string> alone = adapter;
      alone.push_back("--no-fusion");
      r.test = m.whole_model ? loss(out, {}, test) : loss(base, alone, test);
      if (e_.fuse && !m.whole_model) r.fused = loss(base, adapter, test);
      for (const std::string& file : {train, valid, out}) fs::remove(file);
    }
    fs::remove(test);
    write_text(stem + ".json", to_json(r).dump() + "\n");
    return r;
  }

  std::string result_file(const Cell& cell) const { return o_.out + "/cells/" + cell.id(e_) + ".json"; }

 private:
  ProcessResult kvt(std::vector<std::string> args) const {
    args.insert(args.begin(), kvt_);
    ProcessResult p = run_process(args);
    if (p.status == 130 || interrupted()) throw Interrupted();
    std::string command;
    for (const std::string& word : args) command += (command.empty() ? "" : " ") + word;
    require(p.status == 0, "experiment: status ", p.status, " of: ", command, "\n", p.error);
    return p;
  }

  double loss(const std::string& model, const std::vector<std::string>& more, const std::string& text) const {
    std::vector<std::string> args = {"perplexity", "-m", model, "-f", text, "-c", std::to_string(e_.length + 1), "--whole", "--json", "-t", std::to_string(o_.threads)};
    args.insert(args.end(), more.begin(), more.end());
    return json::parse(kvt(args).out).at("nll").get<double>();
  }

  void adapt(const Cell& cell, const ExperimentMethod& m, const std::string& base, const std::string& train, const std::string& valid, const std::string& out,
             CellResult& r) const {
    std::vector<std::string> args = {"adapt", "-m", base, "--data", train, "--valid", valid, "-o", out, "--length", std::to_string(e_.length), "--json",
                                     "--seed", std::to_string(cell.seed), "-t", std::to_string(o_.threads)};
    args.insert(args.end(), e_.args.begin(), e_.args.end());
    args.insert(args.end(), m.args.begin(), m.args.end());
    if (!cell.rate.empty()) args.insert(args.end(), {"--lr", cell.rate});
    if (e_.fuse && !m.whole_model) args.insert(args.end(), {"--fuse", "auto"});
    const ProcessResult p = kvt(args);
    std::istringstream lines(p.out);
    for (std::string line; std::getline(lines, line);) {
      const json event = json::parse(line);
      if (event.contains("trained")) r.trained = event.at("trained").get<double>();
      if (event.at("event") == "fusion") r.fused_validation = event.at("loss").get<double>();
      if (event.at("event") != "done") continue;
      r.validation = event.at("best_loss").get<double>();
      r.passes = event.at("passes").get<double>();
    }
    r.stored = double(fs::file_size(out));
    r.seconds = p.seconds;
    r.memory = double(p.peak_memory);
  }

  const Experiment& e_;
  const Options& o_;
  std::string kvt_;
  std::vector<std::string> texts_;
};

std::string clock_of(double seconds) {
  char text[40];
  const auto s = int64_t(seconds + 0.5);
  std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", static_cast<long long>(s / 3600), static_cast<long long>(s / 60 % 60), static_cast<long long>(s % 60));
  return text;
}

// Works off the cells that have no result yet; the first error ends it once the runs under way are done.
void work(const Runner& runner, const Experiment& e, const std::vector<Cell>& open, std::vector<CellResult>& results, int jobs, Report& report) {
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
        char text[100];
        std::snprintf(text, sizeof text, "  test %.4f  %.0f s   %s left", r.test, r.seconds, clock_of(seconds / double(done) * double(open.size() - done)).c_str());
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
  if (o.list) {
    for (const Cell& c : cells) std::printf("%s\n", c.id(e).c_str());
    return;
  }
  if (o.jobs == 0) o.jobs = std::max(1, int(std::thread::hardware_concurrency()) / o.threads);
  Report report(false);
  const Runner runner(e, o);
  std::vector<CellResult> results;
  std::vector<Cell> open;
  for (const Cell& c : cells) {
    if (const auto r = read_cell(runner.result_file(c), c)) results.push_back(*r);
    else open.push_back(c);
  }
  report.line(e.name + ": " + std::to_string(cells.size()) + " runs, " + std::to_string(results.size()) + " done before; " + std::to_string(o.jobs) + " at a time with " +
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

Experiment Experiment::open(const std::string& path, const std::string& data) {
  const auto file = [&](const std::string& name) { return data.empty() || name.starts_with("/") ? name : data + "/" + name; };
  Config c = Config::open(path);
  Experiment e;
  e.name = c.text("name");
  e.model = file(c.text("model"));
  e.reference = c.text("reference", "");
  for (Config& d : c.objects("domains")) {
    e.domains.push_back({d.text("name"), file(d.text("text"))});
    d.finish();
  }
  for (Config& m : c.objects("methods")) {
    ExperimentMethod method;
    method.name = m.text("name");
    if (m.has("model")) method.model = file(m.text("model"));
    if (m.has("args")) method.args = m.texts("args");
    if (m.has("rates")) method.rates = m.texts("rates");
    method.whole_model = m.flag("whole_model", false);
    m.finish();
    e.methods.push_back(std::move(method));
  }
  e.sizes = c.counts("sizes", 1024, int64_t(1) << 30);
  e.seeds = c.counts("seeds", 0, 1 << 20);
  e.validation_bytes = c.count("validation_bytes", 1024, int64_t(1) << 30, e.validation_bytes);
  e.test_bytes = c.count("test_bytes", 1024, int64_t(1) << 30, e.test_bytes);
  e.length = c.count("length", 8, 1 << 16, e.length);
  e.fuse = c.flag("fuse", true);
  if (c.has("args")) e.args = c.texts("args");
  c.finish();
  bool there = e.reference.empty();
  for (const ExperimentMethod& m : e.methods) there |= m.name == e.reference;
  if (!there) c.bad("reference", "no method is called '" + e.reference + "'");
  return e;
}

void add_experiment(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("experiment", "compare methods of adaptation: rates, seeds, sizes, domains; table and plot");
  c->add_option("file", o->file, "JSON file (tools/experiments/README.md)")->required();
  c->add_option("--data", o->data, "folder that the file's paths are relative to (default: the current one)");
  auto* out = c->add_option("-o,--out", o->out, "folder for results; runs whose result lies there are not repeated");
  c->add_option("-j,--jobs", o->jobs, "runs at a time (default: as many as there are cores for)")->check(CLI::Range(1, 1024));
  c->add_option("-t,--threads", o->threads, "threads of each run (default 1)")->check(CLI::Range(1, 1024));
  auto* list = c->add_flag("--list", o->list, "print the names of all runs and do none");
  c->footer("Example:\n  kvt experiment tools/experiments/domains.json --data ../shared/data -o results");
  c->callback([o, out, list] {
    if (out->count() + list->count() == 0) throw CLI::RequiredError("--out");
    run(*o);
  });
}

}  // namespace kvt
