package roomserver

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"parley/internal/id"
	"parley/storage/storagetest"
)

// BenchmarkSend sends from 32 senders into 16 rooms and into one, fully durable.
func BenchmarkSend(b *testing.B) {
	for _, rooms := range []int{16, 1} {
		b.Run(fmt.Sprintf("rooms=%d", rooms), func(b *testing.B) {
			s := newServer(b, storagetest.Open(b, filepath.Join(b.TempDir(), "parley.db"), nil))
			ctx := context.Background()
			var ids []id.RoomID
			for range rooms {
				room := s.mustCreate(b, CreateRequest{Preset: "public_chat"})
				for u := range 32 {
					ok(b, s.Join(ctx, MemberRequest{Room: room, Sender: id.UserID(fmt.Sprintf("@u%d:test", u))}))
				}
				ids = append(ids, room)
			}
			b.ResetTimer()
			before, stats := writtenBytes(b), s.db.Stats()
			var next atomic.Int64
			var wg sync.WaitGroup
			for u := range 32 {
				wg.Go(func() {
					for {
						n := next.Add(1)
						if n > int64(b.N) {
							return
						}
						_, err := s.Send(ctx, SendRequest{Room: ids[u%rooms], Sender: id.UserID(fmt.Sprintf("@u%d:test", u)), Type: "m.room.message",
							Content: []byte(fmt.Sprintf(`{"msgtype":"m.text","body":"message %d"}`, n)),
							Txn:     Txn{DeviceNID: int64(u + 1), Scope: "send", ID: fmt.Sprint(n)}})
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(writtenBytes(b)-before)/float64(b.N), "written-B/op")
			after := s.db.Stats()
			b.ReportMetric(float64(after.Functions-stats.Functions)/float64(after.Groups-stats.Groups), "group")
		})
	}
}

// BenchmarkChain takes in, through its last event, a branch on which a member has changed their name 240
// times, beside a branch of ours.
func BenchmarkChain(b *testing.B) {
	for _, version := range []id.RoomVersion{"11", "12"} {
		b.Run("version="+string(version), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				p := newPair(b, version, filepath.Join(b.TempDir(), "parley.db"))
				rename := func(n *node, name string) {
					key := string(n.user)
					_, err := n.Send(context.Background(), SendRequest{Room: p.room, Sender: n.user, Type: "m.room.member", StateKey: &key,
						Content: fmt.Appendf(nil, `{"displayname":%q,"membership":"join"}`, name)})
					ok(b, err)
				}
				rename(p.b, "ours")
				for i := range 240 {
					rename(p.a, fmt.Sprint(i))
				}
				last := p.say(b, "last")
				b.StartTimer()
				for _, r := range p.take(b, last) {
					ok(b, r.Err)
				}
			}
		})
	}
}
