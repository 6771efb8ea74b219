package userserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/userserver"
)

func TestDehydratedDevice(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		alice, bob := f.register(t, "alice"), f.register(t, "bob")
		device := func(name id.DeviceID) userserver.Dehydrated {
			return userserver.Dehydrated{Device: name, DisplayName: "asleep", Data: json.RawMessage(`{"algorithm":"m.test"}`),
				Keys: userserver.KeyUpload{
					DeviceKeys:  newSigner(t, alice.User, name).deviceKeys(t),
					OneTimeKeys: map[string]json.RawMessage{"signed_curve25519:AAAA": json.RawMessage(`{"key":"a"}`)},
				}}
		}
		_, err := f.GetDehydratedDevice(ctx, alice.User)
		wantCode(t, err, matrixerr.NotFound)
		_, err = f.DeleteDehydratedDevice(ctx, alice.User)
		wantCode(t, err, matrixerr.NotFound)

		noKeys := device("FIRST")
		noKeys.Keys.DeviceKeys = nil
		wantCode(t, f.PutDehydratedDevice(ctx, alice.User, noKeys), matrixerr.MissingParam)
		tooLarge := device("FIRST")
		tooLarge.Data = json.RawMessage(`{"a":"` + strings.Repeat("a", 200<<10) + `"}`)
		wantCode(t, f.PutDehydratedDevice(ctx, alice.User, tooLarge), matrixerr.TooLarge)
		// A device that somebody is logged in with can't be put to sleep from outside.
		wantCode(t, f.PutDehydratedDevice(ctx, alice.User, device(alice.Device)), matrixerr.InvalidParam)

		wantCode(t, f.PutDehydratedDevice(ctx, alice.User, device("FIRST")), "")
		wantCode(t, f.PutDehydratedDevice(ctx, alice.User, device("SECOND")), "")
		if _, err := f.GetDevice(ctx, alice.User, "FIRST"); matrixerr.CodeOf(err) != matrixerr.NotFound {
			t.Errorf("the device that was replaced is still there: %v", err)
		}
		got := must[userserver.Dehydrated](t)(f.GetDehydratedDevice(ctx, alice.User))
		if got.Device != "SECOND" || string(got.Data) != `{"algorithm":"m.test"}` {
			t.Errorf("got %s with %s", got.Device, got.Data)
		}
		claimed := must[userserver.ClaimedKeys](t)(f.ClaimLocalKeys(ctx,
			map[id.UserID]map[id.DeviceID]string{alice.User: {"SECOND": "signed_curve25519"}}))
		if len(claimed[alice.User]["SECOND"]) != 1 {
			t.Errorf("claimed %v", claimed)
		}

		const sent = 130
		for i := range sent {
			err := f.SendToDevice(ctx, bob.User, bob.DeviceNID, "m.test", fmt.Sprint(i),
				userserver.Messages{alice.User: {"SECOND": fmt.Appendf(nil, `{"n":%d}`, i)}})
			wantCode(t, err, "")
		}
		_, _, err = f.DehydratedMessages(ctx, alice.User, "FIRST", "")
		wantCode(t, err, matrixerr.Forbidden)
		_, _, err = f.DehydratedMessages(ctx, bob.User, "SECOND", "")
		wantCode(t, err, matrixerr.NotFound)
		_, _, err = f.DehydratedMessages(ctx, alice.User, "SECOND", "x")
		wantCode(t, err, matrixerr.InvalidParam)
		for range 2 { // one that is interrupted starts again
			count, next := 0, ""
			for {
				events, token, err := f.DehydratedMessages(ctx, alice.User, "SECOND", next)
				if err != nil {
					t.Fatal(err)
				}
				if len(events) == 0 {
					break
				}
				for _, raw := range events {
					var e struct{ Content struct{ N int } }
					if err := json.Unmarshal(raw, &e); err != nil || e.Content.N != count {
						t.Fatalf("message %d is %s", count, raw)
					}
					count++
				}
				next = token
			}
			if count != sent {
				t.Errorf("%d of %d messages came", count, sent)
			}
		}

		if gone := must[id.DeviceID](t)(f.DeleteDehydratedDevice(ctx, alice.User)); gone != "SECOND" {
			t.Errorf("deleted %s", gone)
		}
		_, err = f.GetDehydratedDevice(ctx, alice.User)
		wantCode(t, err, matrixerr.NotFound)

		// Whoever logs in as the device holds it.
		wantCode(t, f.PutDehydratedDevice(ctx, alice.User, device("THIRD")), "")
		must[userserver.Session](t)(f.Login(ctx, alice.User, userserver.NewSession{Device: "THIRD"}))
		_, err = f.GetDehydratedDevice(ctx, alice.User)
		wantCode(t, err, matrixerr.NotFound)
	})
}
