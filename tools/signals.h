// Signals of the command line; the library installs no handlers.
#pragma once

namespace kvt {

// SIGBUS: a mapped file became shorter than what is read of it, or its medium failed: says which file, exit status 1.
// SIGXFSZ: ignored, so that a file that may not grow is a failed write with a message.
void install_signal_handlers();

}  // namespace kvt
