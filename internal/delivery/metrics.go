package delivery

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// register makes the queue's figures.
func (q *Queue) register() error {
	labels := prometheus.Labels{"consumer": q.o.Name}
	q.delivered = prometheus.NewCounter(prometheus.CounterOpts{Name: "parley_delivery_delivered_total",
		Help: "Deliveries that their destinations took.", ConstLabels: labels})
	q.failed = prometheus.NewCounter(prometheus.CounterOpts{Name: "parley_delivery_failed_total",
		Help: "Deliveries that failed, and are tried again.", ConstLabels: labels})
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 {
			q.mu.Lock()
			defer q.mu.Unlock()
			return value()
		})
	}
	count := func(which func(*destination) bool) func() float64 {
		return func() float64 {
			n := 0
			for _, d := range q.destinations {
				if which(d) {
					n++
				}
			}
			return float64(n)
		}
	}
	if q.o.Metrics == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{
		q.delivered, q.failed,
		gauge("parley_delivery_behind", "Destinations for which something waits.", count((*destination).behind)),
		gauge("parley_delivery_failing", "Destinations that could not be reached the last time.",
			count(func(d *destination) bool { return d.failures > 0 })),
		gauge("parley_delivery_running", "Deliveries that are under way.", func() float64 { return float64(q.running[0] + q.running[1]) }),
		gauge("parley_delivery_log_unread", "Positions of the log that were not looked through yet.", func() float64 { return float64(q.log - q.routed) }),
	} {
		if err := q.o.Metrics.Register(c); err != nil {
			return fmt.Errorf("figures of %s: %w", q.o.Name, err)
		}
	}
	return nil
}
