// Package stream carries notices: after a commit, and only then, it tells whoever waits
// that the log has grown, and where. Whoever is woken reads the database from its own
// cursor, so a lost notice costs latency and never correctness.
//
// It is not for data: only typing and presence, which live in memory alone, ride in a
// notice's body.
//
// A [Broker] takes notices from storage and hands them on: at once to its sinks, which never
// block, and through bounded queues to its subscribers. A [Hub] is a sink. It remembers the
// last notices, knows which rooms those users are in who lately waited for something, and
// wakes them.
//
// # What is in order
//
//   - Notices with a position are published by one goroutine, the database's writer, in the
//     order of positions, after their commit and before the write is acknowledged. So whoever
//     was told that a write is done finds its notice in the hub.
//   - A subscriber gets notices in the order in which they were published. When its queue is
//     full the newest are dropped, and it is told that it missed some before it gets the next.
//   - Typing and presence have no position and come from any goroutine; among each other, and
//     against those with a position, they have the order in which the hub took them in, and
//     each has a number of that order: [Mark.Seq].
//   - The hub is complete from a [Mark] on when it has remembered every notice since. That
//     holds because one process writes and its notices cannot get lost or late; [Hub.Since] is
//     the one place that relies on it.
//   - [Hub.Wait] looks for news and, if there are none, registers to be woken, under one lock:
//     nothing can come in between.
//
// # Goroutines and locks
//
// A hub has one goroutine, which wakes those who wait; publishing takes the hub's lock for a
// moment and leaves the rest to it. Those who wait do so on their own goroutines. The hub's
// lock and a subscription's are never held together, and nothing is called while they are held.
package stream
