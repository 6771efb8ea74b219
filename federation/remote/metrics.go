package remote

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts and times what is asked. The labels are of kinds, not of servers, of which there may
// be any number.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer, d *down) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_federation_requests_total",
			Help: "Requests to other servers, by kind and outcome (ok, refused, failed, wrong answer, unreachable, down).",
		}, []string{"kind", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "parley_federation_request_seconds",
			Help:    "Time from a request to another server to the end of its answer.",
			Buckets: []float64{0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300},
		}, []string{"kind"}),
	}
	if reg == nil {
		return m, nil
	}
	servers := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "parley_federation_servers_down",
		Help: "Servers that are not asked for now, because they could not be reached.",
	}, func() float64 { return float64(d.count()) })
	for _, c := range []prometheus.Collector{m.requests, m.seconds, servers} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register a metric: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) observe(k kind, err error, took time.Duration) {
	m.requests.WithLabelValues(k.name, outcome(err)).Inc()
	if !errors.Is(err, ErrDown) {
		m.seconds.WithLabelValues(k.name).Observe(took.Seconds())
	}
}

func outcome(err error) string {
	var status *StatusError
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &status) && status.Status < 500:
		return "refused"
	case errors.Is(err, ErrDown):
		return "down"
	case errors.Is(err, ErrUnreachable):
		return "unreachable"
	case errors.Is(err, ErrAnswer):
		return "wrong answer"
	}
	return "failed"
}
