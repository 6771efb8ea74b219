// Package eventually is how tests wait for what a server does by itself.
package eventually

import (
	"testing"
	"time"
)

// patience is there so that what never happens fails the test with a message.
const patience = time.Minute

// OK calls a function again and again until it gives no error; its last one fails the test.
func OK(t testing.TB, what func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if err = what(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// True is OK for what says no more than that it is so; not says what is wrong when it never is.
func True(t testing.TB, not string, what func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if what() {
			return
		}
	}
	t.Fatal(not)
}
