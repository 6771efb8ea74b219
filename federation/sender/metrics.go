package sender

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	pdus, edus, refused prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, waiting func() int) (*metrics, error) {
	m := &metrics{
		pdus:    prometheus.NewCounter(prometheus.CounterOpts{Name: "parley_sender_pdus_total", Help: "Events sent to other servers, each as often as to servers."}),
		edus:    prometheus.NewCounter(prometheus.CounterOpts{Name: "parley_sender_edus_total", Help: "EDUs sent to other servers."}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{Name: "parley_sender_refused_pdus_total", Help: "Events that another server would not take."}),
	}
	if reg == nil {
		return m, nil
	}
	passing := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "parley_sender_passing",
		Help: "Typing, presence and receipts that wait for other servers."}, func() float64 { return float64(waiting()) })
	for _, c := range []prometheus.Collector{m.pdus, m.edus, m.refused, passing} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("figures of the sender: %w", err)
		}
	}
	return m, nil
}
