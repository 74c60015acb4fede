// Command helper is the only code that touches NVML, and the only one with cgo. The
// agent runs it as a child, from memory (see gpu/nvml), because NVML ends or hangs the
// process it lives in: a function that the driver lacks ends it with status 127, a
// card off the bus can hold a call for a minute. It owns the NVML session and the
// event set, and nothing durable. It does one request at a time, never retries,
// never decides, and ends when its standard input does.
//
// A function newer than the oldest driver we support (R470) is looked up before use;
// the table is in symbols.go. Start reading at main, then session.answer.
package main
