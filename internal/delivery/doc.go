// Package delivery is the machine of those who deliver what the log shows: to other servers,
// to push gateways, to application services. What is delivered, and how, is the [Consumer]'s
// business; this package sees to when: it follows the log, keeps a place in it for each
// destination, tries again later and later where one can't be reached, and remembers all of
// that over a restart.
//
// # What is kept
//
// There is one cursor into the log for the consumer. While destinations answer, nothing is
// written for them: what the log says is delivered, and every few seconds the cursor is
// written up to where all have everything. A destination that fails, or takes long, gets a row
// of its own with its place, the number of failures and the time of the next attempt; the
// cursor goes on without it, and the row goes when it has caught up. After a crash what was
// delivered since the cursor was last written is delivered again, so deliveries must bear
// repetition; nothing is left out.
//
// In memory there are the destinations for which something waits, and those that fail: a few
// hundred bytes each, whatever waits for them, as what waits is in the log.
//
// # Order and goroutines
//
// A destination gets one delivery at a time, in the order of the log. One goroutine, owned by
// the [Queue], follows the log, starts deliveries and writes; each delivery is a goroutine of
// its own, of which there are so many at once: some for destinations that answer, and some of
// their own for those that failed, so that a thousand dead destinations don't keep the living
// waiting. [Queue.Close] waits for all of them.
//
// # Several processes
//
// A row names the process that delivers for a consumer, and moves while it lives. Another takes
// over when the row has not moved for a while by its own clock, so clocks need not agree. Who
// has lost the row stops at once: it learns so at the latest when it writes, within the time
// that others wait.
package delivery
