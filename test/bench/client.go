package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"

	"github.com/tidwall/gjson"
)

// client is one kept connection of one user: the least that speaks HTTP/1.1, as it shares
// the machine with what it measures.
type client struct {
	address, token string
	conn           net.Conn
	in             *bufio.Reader
	out            []byte
	body           []byte
}

func dial(address, token string) (*client, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return &client{address: address, token: token, conn: conn, in: bufio.NewReaderSize(conn, 4096)}, nil
}

func (c *client) close() { c.conn.Close() }

// do makes a request and gives the answer's body, valid until the next.
func (c *client) do(method, path string, body []byte) ([]byte, error) {
	c.out = append(c.out[:0], method...)
	c.out = append(c.out, ' ')
	c.out = append(c.out, path...)
	c.out = append(c.out, " HTTP/1.1\r\nHost: "...)
	c.out = append(c.out, c.address...)
	c.out = append(c.out, "\r\nAuthorization: Bearer "...)
	c.out = append(c.out, c.token...)
	c.out = append(c.out, "\r\n"...)
	if body != nil {
		c.out = append(c.out, "Content-Type: application/json\r\nContent-Length: "...)
		c.out = strconv.AppendInt(c.out, int64(len(body)), 10)
		c.out = append(c.out, "\r\n"...)
	}
	c.out = append(c.out, "\r\n"...)
	c.out = append(c.out, body...)
	if _, err := c.conn.Write(c.out); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	c.body = c.body[:0]
	for {
		if len(c.body) == cap(c.body) {
			c.body = append(c.body, 0)[:len(c.body)]
		}
		n, err := response.Body.Read(c.body[len(c.body):cap(c.body)])
		c.body = c.body[:len(c.body)+n]
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %d %s", method, path, response.StatusCode, c.body)
	}
	return c.body, nil
}

// sync is one /sync; since is where the last one ended, and is moved on.
func (c *client) sync(since *string, timeout int, filter string) ([]byte, error) {
	path := "/_matrix/client/v3/sync?set_presence=offline&timeout=" + strconv.Itoa(timeout)
	if *since != "" {
		path += "&since=" + *since
	}
	if filter != "" {
		path += "&filter=" + filter
	}
	body, err := c.do("GET", path, nil)
	if err == nil {
		*since = gjson.GetBytes(body, "next_batch").Str
	}
	return body, err
}

// each runs work for every one of n side by side and gives the first error.
func each(n int, work func(i int) error) error {
	var wg sync.WaitGroup
	errs := make(chan error, n)
	for i := range n {
		wg.Go(func() {
			if err := work(i); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}
