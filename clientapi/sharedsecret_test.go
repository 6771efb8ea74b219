package clientapi

import (
	"testing"
	"time"
)

func FuzzNonce(f *testing.F) {
	now := time.Unix(1_700_000_000, 0)
	a := &API{registration: Registration{SharedSecret: "sesame"}, now: func() time.Time { return now }}
	good := a.newNonce(now, "salt")
	if !a.goodNonce(good) {
		f.Fatalf("%s is not good", good)
	}
	for _, seed := range []string{good, "", "..", "zzzzzzzzzzzzzzzz.a.b", "-1.a.b", good + "0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, nonce string) {
		if nonce != good && a.goodNonce(nonce) {
			t.Errorf("%q was not made here, and is good", nonce)
		}
	})
}
