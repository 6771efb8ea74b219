// Command bench measures a node as a client sees it: it fills a database, starts the real
// binary on it, loads it from the same machine, and prints what came out beside what is
// aimed at. `make bench` runs it.
//
// It is no test: nothing fails because a machine is slow. But what it counts it checks:
// deliveries that are lost, doubled or out of order are errors.
package main
