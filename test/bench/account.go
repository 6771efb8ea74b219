package main

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/tidwall/gjson"

	"parley/internal/id"
)

// window asks for the first rooms of the list, as an app does that opens.
const window = `{"lists":{"all":{"ranges":[[0,19]],"timeline_limit":1,"required_state":[["m.room.encryption",""],["m.room.member","$LAZY"]]}}}`

const slidingPath = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"

// account: one who is in 4,000 rooms.
func (b *bench) account() error {
	count := b.scale(4000)
	g, err := b.ground("account")
	if err != nil {
		return err
	}
	users, err := g.makeUsers("u", 20)
	if err != nil {
		return err
	}
	rooms := make([]id.RoomID, count)
	for i := range rooms {
		if rooms[i], err = g.makeRoom([]user{users[0], users[1], users[2+i%18]}); err != nil {
			return err
		}
		if err := g.say(rooms[i], users[1], 12); err != nil {
			return err
		}
	}
	n, err := b.start(g, "full")
	if err != nil {
		return err
	}
	err = n.settle()
	n.stop()
	if err != nil {
		return err
	}
	if n, err = b.start(g, "full"); err != nil {
		return err
	}
	defer n.stop()
	c, err := dial(n.address, users[0].token)
	if err != nil {
		return err
	}
	defer c.close()
	if err := b.firstWindow(c, count); err != nil {
		return err
	}
	if err := b.firstSync(n, c, count); err != nil {
		return err
	}
	other, err := dial(n.address, users[1].token)
	if err != nil {
		return err
	}
	defer other.close()
	return b.oneOfMany(n, c, other, rooms)
}

// firstWindow measures the first answer of sliding sync, by a node that has just started, and later.
func (b *bench) firstWindow(c *client, count int) error {
	var times []time.Duration
	size := 0
	for i := range 11 {
		start := time.Now()
		body, err := c.do("POST", slidingPath, []byte(window))
		if err != nil {
			return err
		}
		took := time.Since(start)
		if got := len(gjson.GetBytes(body, "rooms").Map()); got != 20 || gjson.GetBytes(body, "lists.all.count").Int() != int64(count) {
			b.wrong("a window has %d rooms of %s", got, gjson.GetBytes(body, "lists.all.count"))
		}
		if i == 0 {
			b.row(fmt.Sprintf("account in %d rooms: first sliding window of 20, node just started", count), "under 100 ms", "%v", took.Round(time.Microsecond))
			continue
		}
		size = len(body)
		times = append(times, took)
	}
	b.row("the same, later", "under 100 ms and 20 KB", "p50 %v, %.1f KB", percentile(times, 50), float64(size)/1000)
	return nil
}

// firstSync measures the initial sync of v3, and how far the node's memory grows by it.
func (b *bench) firstSync(n *node, c *client, count int) error {
	filter := url.QueryEscape(`{"room":{"timeline":{"limit":10},"state":{"lazy_load_members":true}}}`)
	before, err := n.memory()
	if err != nil {
		return err
	}
	// From here on the peak is counted anew.
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", n.cmd.Process.Pid), []byte("5"), 0); err != nil {
		return err
	}
	since := ""
	start := time.Now()
	body, err := c.sync(&since, 0, filter)
	if err != nil {
		return err
	}
	took := time.Since(start)
	if got := len(gjson.GetBytes(body, "rooms.join").Map()); got != count {
		b.wrong("an initial sync has %d of %d rooms", got, count)
	}
	peak, err := procNumber(n.cmd.Process.Pid, "status", "VmHWM:")
	if err != nil {
		return err
	}
	b.row("initial sync of it, lazy members, 10 events a room", "under 3 s, bounded memory", "%v, %.1f MB; memory grows by %.0f MB",
		took.Round(time.Millisecond), float64(len(body))/1e6, float64(peak<<10-before)/1e6)
	return nil
}

// oneOfMany measures what it costs the node to tell of one message in one of many rooms: what sending and telling
// cost, without what sending alone does.
func (b *bench) oneOfMany(n *node, c, other *client, rooms []id.RoomID) error {
	const count = 300
	since, pos := "", ""
	if _, err := c.sync(&since, 0, lazyOne); err != nil {
		return err
	}
	slide := func() (news int, err error) {
		body, err := c.do("POST", slidingPath+"?pos="+pos, []byte(window))
		if err == nil {
			pos = gjson.GetBytes(body, "pos").Str
			news = len(gjson.GetBytes(body, "rooms").Map())
		}
		return news, err
	}
	if _, err := slide(); err != nil {
		return err
	}
	run := func(name string, tell func() (int, error)) (time.Duration, error) {
		before, err := n.usage()
		if err != nil {
			return 0, err
		}
		for i := range count {
			room := rooms[(i*37)%len(rooms)]
			if _, err := other.do("PUT", sendPath(room, name+strconv.Itoa(i)), []byte(message(i))); err != nil {
				return 0, err
			}
			if news, err := tell(); err != nil {
				return 0, err
			} else if news != 1 {
				b.wrong("after a message an answer of %s tells of %d rooms", name, news)
			}
		}
		used, err := n.since(before)
		return used.cpu / count, err
	}
	alone, err := run("send", func() (int, error) { return 1, nil })
	if err != nil {
		return err
	}
	// What was sent meanwhile is told at once, and not counted.
	if _, err := c.sync(&since, 0, lazyOne); err != nil {
		return err
	}
	if _, err := slide(); err != nil {
		return err
	}
	v3, err := run("v3", func() (int, error) {
		body, err := c.sync(&since, 0, lazyOne)
		return len(gjson.GetBytes(body, "rooms.join").Map()), err
	})
	if err != nil {
		return err
	}
	if _, err := slide(); err != nil {
		return err
	}
	sliding, err := run("sliding", slide)
	if err != nil {
		return err
	}
	b.row("an answer after one message in one of them", "under 3 ms of CPU", "/sync %.2f ms, sliding %.2f ms",
		float64(v3-alone)/1e6, float64(sliding-alone)/1e6)
	return nil
}

// flapping is how often each user of the presence scenario comes or goes.
const flapping = 30 * time.Second

// presence: 10,000 users in rooms of fifty, each of whom comes or goes again and again, while some wait in /sync. What
// it costs is what the node uses beyond what it uses for as many requests that change nothing, while the same ones wait.
func (b *bench) presence() error {
	members, waiting := b.scale(10_000), b.scale(500)
	g, err := b.ground("presence")
	if err != nil {
		return err
	}
	users, err := g.makeUsers("u", members)
	if err != nil {
		return err
	}
	for i := 0; i < members; i += 50 {
		if _, err := g.makeRoom(users[i:min(i+50, members)]); err != nil {
			return err
		}
	}
	n, err := b.start(g, "full")
	if err != nil {
		return err
	}
	defer n.stop()
	dialled := func(count int) (clients []*client, err error) {
		clients = make([]*client, count)
		for i := range clients {
			// i%50 is a place in a room: those who wait are of every one, and so of both halves of the users.
			if clients[i], err = dial(n.address, users[(i*members/count+i%50)%members].token); err != nil {
				return nil, err
			}
		}
		return clients, nil
	}
	clients, err := dialled(8)
	if err != nil {
		return err
	}
	waiters, err := dialled(waiting)
	if err != nil {
		return err
	}
	sinces := make([]string, waiting)
	wait := func(timeout int) func(i int) error {
		return func(i int) error {
			_, err := waiters[i].sync(&sinces[i], timeout, lazyOne)
			return err
		}
	}
	if err := each(waiting, wait(0)); err != nil {
		return err
	}
	// They wait until their connections are closed.
	ended := make(chan error, 1)
	go func() {
		ended <- each(waiting, func(i int) error {
			for next := wait(30_000); ; {
				if err := next(i); err != nil {
					return err
				}
			}
		})
	}()
	defer func() {
		for _, c := range append(clients, waiters...) {
			c.close()
		}
		<-ended
	}()

	// share is what the node uses of a core, in percent, while something is done.
	share := func(act func() error) (float64, usage, error) {
		before, err := n.usage()
		if err != nil {
			return 0, usage{}, err
		}
		if err := act(); err != nil {
			return 0, usage{}, err
		}
		used, err := n.since(before)
		return 100 * used.cpu.Seconds() / used.at.Sub(before.at).Seconds(), used, err
	}
	// flap makes a request on the presence of every user once in the time of flapping, for so many rounds of it, in an
	// order that has nothing to do with their rooms.
	order := rand.New(rand.NewPCG(1, 2)).Perm(members)
	flap := func(rounds float64, method string) error {
		return each(len(clients), func(w int) error {
			c, begin := clients[w], time.Now()
			for i := w; i < int(rounds*float64(members)); i += len(clients) {
				time.Sleep(time.Until(begin.Add(time.Duration(i) * flapping / time.Duration(members))))
				u := users[order[i%members]]
				c.token = u.token
				var body []byte
				if method == "PUT" {
					// Each goes after he came, and comes after he went; half are there at any time.
					state := [...]string{"online", "unavailable"}[(i/members+i%members)%2]
					body = []byte(`{"presence":"` + state + `"}`)
				}
				if _, err := c.do(method, v3+"/presence/"+url.PathEscape(string(u.id))+"/status", body); err != nil {
					return err
				}
			}
			return nil
		})
	}
	idle, _, err := share(func() error { time.Sleep(flapping / 2); return nil })
	if err != nil {
		return err
	}
	asked, _, err := share(func() error { return flap(0.5, "GET") })
	if err != nil {
		return err
	}
	if err := flap(0.1, "PUT"); err != nil { // warm
		return err
	}
	all, used, err := share(func() error { return flap(2.5, "PUT") })
	if err != nil {
		return err
	}
	const target = 5
	b.row(fmt.Sprintf("presence of %d users, each changing every %v, %d wait", members, flapping, waiting),
		fmt.Sprintf("under %d %% of a core", target),
		"%.1f %% of a core, %.2f of the target (%.1f %% in all; requests that change nothing %.1f %%, idle %.1f %%), %.1f MB written",
		all-asked, (all-asked)/target, all, asked, idle, float64(used.written)/1e6)
	return nil
}
