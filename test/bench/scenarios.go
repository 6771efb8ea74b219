package main

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/gjson"

	"parley/internal/id"
)

const v3 = "/_matrix/client/v3"

func sendPath(room id.RoomID, txn string) string {
	return v3 + "/rooms/" + url.PathEscape(string(room)) + "/send/m.room.message/" + txn
}

// send: senders in a closed loop.
func (b *bench) send() error {
	for _, s := range []struct {
		name, durability, target string
		senders, rooms, count    int
	}{
		{"32 senders, 16 rooms", "full", "over 3,000/s, p95 under 30 ms, 0.5 CPU-s, 5 MB", 32, 16, 40000},
		{"32 senders, one hot room", "full", "no slower than half of that", 32, 1, 40000},
		{"one sender", "relaxed", "over 1,500/s", 1, 1, 10000},
	} {
		if err := b.sendOnce(s.name, s.durability, s.target, s.senders, s.rooms, b.scale(s.count)); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) sendOnce(name, durability, target string, senders, rooms, count int) error {
	g, err := b.ground("send")
	if err != nil {
		return err
	}
	users, err := g.makeUsers("u", senders)
	if err != nil {
		return err
	}
	ids := make([]id.RoomID, rooms)
	for i := range ids {
		if ids[i], err = g.makeRoom(users); err != nil {
			return err
		}
	}
	n, err := b.start(g, durability)
	if err != nil {
		return err
	}
	defer n.stop()
	before, err := n.usage()
	if err != nil {
		return err
	}
	var next atomic.Int64
	var mu sync.Mutex
	var times []time.Duration
	err = each(senders, func(i int) error {
		c, err := dial(n.address, users[i].token)
		if err != nil {
			return err
		}
		defer c.close()
		var own []time.Duration
		for {
			m := int(next.Add(1))
			if m > count {
				break
			}
			start := time.Now()
			if _, err := c.do("PUT", sendPath(ids[i%rooms], strconv.Itoa(m)), []byte(message(m))); err != nil {
				return err
			}
			own = append(own, time.Since(start))
		}
		mu.Lock()
		defer mu.Unlock()
		times = append(times, own...)
		return nil
	})
	if err != nil {
		return err
	}
	wall := time.Since(before.at)
	used, err := n.since(before)
	if err != nil {
		return err
	}
	per1000 := float64(count) / 1000
	b.row(name+" ("+durability+"): messages", target, "%.0f/s, p50 %v, p95 %v, p99 %v", float64(count)/wall.Seconds(),
		percentile(times, 50), percentile(times, 95), percentile(times, 99))
	b.row("  for 1,000 messages", "", "%.2f CPU-s, %.0f transactions, %.1f MB written",
		used.cpu.Seconds()/per1000, float64(used.transactions)/per1000, float64(used.written)/1e6/per1000)
	return nil
}

// fanout: one sender, many members who each wait in /sync.
func (b *bench) fanout() error {
	members, count := b.scale(500), 200
	d, err := b.deliver("fanout", members+1, members, count)
	if err != nil {
		return err
	}
	deliveries := members * count
	b.row(fmt.Sprintf("one sender, %d members in /sync: deliveries", members), "over 10,000/s, under 0.1 CPU-s for 1,000",
		"%.0f/s, %.3f CPU-s for 1,000", float64(deliveries)/d.wall.Seconds(), d.used.cpu.Seconds()*1000/float64(deliveries))
	return nil
}

// crowd: a room of 10,000, of whom 2,000 wait, beside one of two, of whom one waits.
func (b *bench) crowd() error {
	const count = 30
	few, err := b.deliver("two", 2, 1, count)
	if err != nil {
		return err
	}
	members, waiting := b.scale(10_000), b.scale(2_000)
	many, err := b.deliver("crowd", members, waiting, count)
	if err != nil {
		return err
	}
	b.row(fmt.Sprintf("a message in a room of %d has reached the %d who wait", members, waiting), "under 1 s",
		"p50 %v, p95 %v", percentile(many.reached, 50), percentile(many.reached, 95))
	b.row("the sender's request, there and in a room of two", "the same", "p50 %v and %v", percentile(many.sent, 50), percentile(few.sent, 50))
	return nil
}

// delivered is what it took to bring messages to those who wait.
type delivered struct {
	wall time.Duration
	used usage
	// sent is how long the sender's requests took, reached how long it was from their beginning until all had
	// the message.
	sent, reached []time.Duration
}

// deliver makes a room of members, has some of them wait in /sync, and sends messages, the next one when the
// last has reached all who wait.
func (b *bench) deliver(name string, members, waiting, count int) (d delivered, err error) {
	g, err := b.ground(name)
	if err != nil {
		return d, err
	}
	users, err := g.makeUsers("u", members)
	if err != nil {
		return d, err
	}
	room, err := g.makeRoom(users)
	if err != nil {
		return d, err
	}
	n, err := b.start(g, "full")
	if err != nil {
		return d, err
	}
	defer n.stop()
	receivers := make([]*receiver, waiting)
	err = each(waiting, func(i int) error {
		c, err := dial(n.address, users[i+1].token)
		if err != nil {
			return err
		}
		receivers[i] = &receiver{client: c, room: string(room)}
		_, err = c.sync(&receivers[i].since, 0, lazyOne)
		return err
	})
	if err != nil {
		return d, err
	}
	sender, err := dial(n.address, users[0].token)
	if err != nil {
		return d, err
	}
	defer sender.close()
	before, err := n.usage()
	if err != nil {
		return d, err
	}
	arrived := make(chan int, waiting*4)
	var wg sync.WaitGroup
	for _, r := range receivers {
		wg.Go(func() { r.run(count, arrived) })
	}
	time.Sleep(200*time.Millisecond + time.Duration(waiting)*time.Millisecond/2)
	begin := time.Now()
	counts := make([]int, count)
	for m := range count {
		start := time.Now()
		if _, err := sender.do("PUT", sendPath(room, strconv.Itoa(m)), []byte(`{"msgtype":"m.text","body":"`+strconv.Itoa(m)+`"}`)); err != nil {
			return d, err
		}
		d.sent = append(d.sent, time.Since(start))
		timeout := time.After(20 * time.Second)
		for counts[m] < waiting {
			select {
			case k := <-arrived:
				if k >= 0 && k < count {
					counts[k]++
				}
			case <-timeout:
				b.wrong("message %d reached %d of %d members", m, counts[m], waiting)
				counts[m] = waiting
			}
		}
		d.reached = append(d.reached, time.Since(start))
	}
	d.wall = time.Since(begin)
	if d.used, err = n.since(before); err != nil {
		return d, err
	}
	for _, r := range receivers {
		r.client.close()
	}
	wg.Wait()
	doubled, disordered := 0, 0
	for _, r := range receivers {
		doubled += r.doubled
		disordered += r.disordered
	}
	if doubled+disordered > 0 {
		b.wrong("%d deliveries were doubled, %d out of order", doubled, disordered)
	}
	return d, nil
}

// lazyOne is a filter by which an initial sync of a large room is small.
const lazyOne = `%7B%22room%22%3A%7B%22state%22%3A%7B%22lazy_load_members%22%3Atrue%7D%2C%22timeline%22%3A%7B%22limit%22%3A1%7D%7D%7D`

// receiver reads one room by long polls.
type receiver struct {
	client              *client
	room, since         string
	last                int
	doubled, disordered int
}

func (r *receiver) run(count int, arrived chan<- int) {
	r.last = -1
	for r.last < count-1 {
		body, err := r.client.sync(&r.since, 30000, "")
		if err != nil {
			return // the connection was closed: what is missing is counted by the sender
		}
		gjson.GetBytes(body, "rooms.join").ForEach(func(_, room gjson.Result) bool {
			for _, e := range room.Get("timeline.events").Array() {
				m, err := strconv.Atoi(e.Get("content.body").Str)
				if err != nil {
					continue
				}
				switch {
				case m == r.last:
					r.doubled++
				case m != r.last+1:
					r.disordered++
				}
				r.last = m
				arrived <- m
			}
			return true
		})
	}
}

// idle: connections that wait in /sync.
func (b *bench) idle() error {
	connections := b.scale(5000)
	g, err := b.ground("idle")
	if err != nil {
		return err
	}
	users, err := g.makeUsers("u", 500)
	if err != nil {
		return err
	}
	for i := range 50 {
		if _, err := g.makeRoom(users[i*10 : i*10+10]); err != nil {
			return err
		}
	}
	n, err := b.start(g, "full")
	if err != nil {
		return err
	}
	defer n.stop()
	since := make([]string, len(users))
	if err := each(len(users), func(i int) error {
		c, err := dial(n.address, users[i].token)
		if err != nil {
			return err
		}
		defer c.close()
		_, err = c.sync(&since[i], 0, "")
		return err
	}); err != nil {
		return err
	}
	time.Sleep(time.Second)
	before, err := n.memory()
	if err != nil {
		return err
	}
	clients := make([]*client, connections)
	for i := range clients {
		if clients[i], err = dial(n.address, users[i%len(users)].token); err != nil {
			return err
		}
		defer clients[i].close()
		token := since[i%len(users)]
		go clients[i].sync(&token, 120000, "")
	}
	time.Sleep(5 * time.Second)
	waiting, err := n.usage()
	if err != nil {
		return err
	}
	time.Sleep(10 * time.Second)
	after, err := n.memory()
	if err != nil {
		return err
	}
	used, err := n.since(waiting)
	if err != nil {
		return err
	}
	b.row(fmt.Sprintf("%d waiting connections: resident memory each", connections), "under 30 KiB, no CPU",
		"%.1f KiB; %.1f %% of a core", float64(after-before)/1024/float64(connections), used.cpu.Seconds()*10)
	return nil
}

// sync: an account in 200 rooms.
func (b *bench) sync() error {
	rooms := 200
	g, err := b.ground("sync")
	if err != nil {
		return err
	}
	users, err := g.makeUsers("u", 10)
	if err != nil {
		return err
	}
	for range rooms {
		room, err := g.makeRoom(users)
		if err != nil {
			return err
		}
		if err := g.say(room, users[1], 20); err != nil {
			return err
		}
	}
	n, err := b.start(g, "full")
	if err != nil {
		return err
	}
	defer n.stop()
	c, err := dial(n.address, users[0].token)
	if err != nil {
		return err
	}
	defer c.close()
	for _, filter := range []string{"", url.QueryEscape(`{"room":{"state":{"lazy_load_members":true}}}`)} {
		var times []time.Duration
		size := 0
		for range 10 {
			since := ""
			start := time.Now()
			body, err := c.sync(&since, 0, filter)
			if err != nil {
				return err
			}
			if got := len(gjson.GetBytes(body, "rooms.join").Map()); got != rooms {
				b.wrong("an initial sync has %d of %d rooms", got, rooms)
			}
			size = len(body)
			times = append(times, time.Since(start))
		}
		what := "initial sync of 200 rooms"
		if filter != "" {
			what += ", lazy members"
		}
		b.row(what, "under 300 ms", "p50 %v, %d KB", percentile(times, 50), size/1000)
	}
	const workers = 8
	count := b.scale(40000)
	var next atomic.Int64
	before, err := n.usage()
	if err != nil {
		return err
	}
	if err := each(workers, func(i int) error {
		c, err := dial(n.address, users[i].token)
		if err != nil {
			return err
		}
		defer c.close()
		since := ""
		if _, err := c.sync(&since, 0, ""); err != nil {
			return err
		}
		for next.Add(1) <= int64(count) {
			if _, err := c.sync(&since, 0, ""); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	wall := time.Since(before.at)
	used, err := n.since(before)
	if err != nil {
		return err
	}
	b.row("incremental sync with nothing new", "over 5,000/s", "%.0f/s, %.3f CPU-s for 1,000",
		float64(count)/wall.Seconds(), used.cpu.Seconds()*1000/float64(count))
	return nil
}

// large: a room of 20,000 members beside one of 2.
func (b *bench) large() error {
	members := b.scale(20000)
	g, err := b.ground("large")
	if err != nil {
		return err
	}
	users, err := g.makeUsers("u", members)
	if err != nil {
		return err
	}
	joiners, err := g.makeUsers("j", b.scale(2000))
	if err != nil {
		return err
	}
	big, err := g.makeRoom(users)
	if err != nil {
		return err
	}
	small, err := g.makeRoom(users[:2])
	if err != nil {
		return err
	}
	n, err := b.start(g, "full")
	if err != nil {
		return err
	}
	defer n.stop()
	cost := func(room id.RoomID, count int) (float64, error) {
		before, err := n.usage()
		if err != nil {
			return 0, err
		}
		var next atomic.Int64
		err = each(16, func(i int) error {
			c, err := dial(n.address, users[i%2].token)
			if err != nil {
				return err
			}
			defer c.close()
			for {
				m := next.Add(1)
				if m > int64(count) {
					return nil
				}
				if _, err := c.do("PUT", sendPath(room, "c"+strconv.FormatInt(before.at.UnixNano(), 36)+strconv.Itoa(int(m))), []byte(message(int(m)))); err != nil {
					return err
				}
			}
		})
		if err != nil {
			return 0, err
		}
		used, err := n.since(before)
		return used.cpu.Seconds() * 1e6 / float64(count), err
	}
	count := b.scale(5000)
	if _, err := cost(small, count); err != nil { // warm
		return err
	}
	inSmall, err := cost(small, count)
	if err != nil {
		return err
	}
	inBig, err := cost(big, count)
	if err != nil {
		return err
	}
	b.row(fmt.Sprintf("CPU of a message in a room of %d / of 2", members), "at most 1.5 times",
		"%.0f µs / %.0f µs = %.2f", inBig, inSmall, inBig/inSmall)
	rate := func(what, target string, count int, act func(i int) (token, method, path, body string)) error {
		before, err := n.usage()
		if err != nil {
			return err
		}
		var next atomic.Int64
		if err := each(32, func(int) error {
			var c *client
			for {
				i := int(next.Add(1)) - 1
				if i >= count {
					break
				}
				token, method, path, body := act(i)
				if c == nil {
					if c, err = dial(n.address, token); err != nil {
						return err
					}
					defer c.close()
				}
				c.token = token
				if _, err := c.do(method, path, []byte(body)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
		wall := time.Since(before.at)
		used, err := n.since(before)
		if err != nil {
			return err
		}
		b.row(what, target, "%.0f/s, %.2f CPU-ms and %.1f KiB written each", float64(count)/wall.Seconds(),
			used.cpu.Seconds()*1000/float64(count), float64(used.written)/1024/float64(count))
		return nil
	}
	roomPath := v3 + "/rooms/" + url.PathEscape(string(big))
	if err := rate("joins into it", "500/s, under 6 KiB each", len(joiners), func(i int) (string, string, string, string) {
		return joiners[i].token, "POST", roomPath + "/join", "{}"
	}); err != nil {
		return err
	}
	return rate("state changes in it", "1,000/s", b.scale(5000), func(i int) (string, string, string, string) {
		return users[0].token, "PUT", roomPath + "/state/org.example.state/k" + strconv.Itoa(i%500), `{"n":` + strconv.Itoa(i) + `}`
	})
}

// messages: pages back through a room.
func (b *bench) messages() error {
	count := b.scale(20000)
	g, err := b.ground("messages")
	if err != nil {
		return err
	}
	users, err := g.makeUsers("u", 8)
	if err != nil {
		return err
	}
	room, err := g.makeRoom(users)
	if err != nil {
		return err
	}
	if err := g.say(room, users[1], count); err != nil {
		return err
	}
	n, err := b.start(g, "full")
	if err != nil {
		return err
	}
	defer n.stop()
	var events atomic.Int64
	before, err := n.usage()
	if err != nil {
		return err
	}
	const passes = 4
	if err := each(2, func(i int) error {
		c, err := dial(n.address, users[i].token)
		if err != nil {
			return err
		}
		defer c.close()
		for range passes {
			from, seen := "", 0
			for {
				path := v3 + "/rooms/" + url.PathEscape(string(room)) + "/messages?dir=b&limit=1000"
				if from != "" {
					path += "&from=" + from
				}
				body, err := c.do("GET", path, nil)
				if err != nil {
					return err
				}
				seen += strings.Count(string(body), `"m.room.message"`)
				from = gjson.GetBytes(body, "end").Str
				if from == "" {
					break
				}
			}
			if seen != count {
				b.wrong("paging back showed %d of %d messages", seen, count)
			}
			events.Add(int64(seen))
		}
		return nil
	}); err != nil {
		return err
	}
	wall := time.Since(before.at)
	used, err := n.since(before)
	if err != nil {
		return err
	}
	b.row("/messages backwards: events", "over 60,000/s", "%.0f/s, %.4f CPU-s for 1,000", float64(events.Load())/wall.Seconds(),
		used.cpu.Seconds()*1000/float64(events.Load()))
	return nil
}
