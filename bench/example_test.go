package bench_test

import (
	"context"
	"fmt"
	"time"

	"github.com/duotap/duotap/bench"
)

// Two instances in this process need no rights and no peer process. Without the kernel
// there is nothing to compare with; see duotap bench for that.
func Example() {
	report, err := bench.Run(context.Background(), bench.Config{
		Links: []bench.Link{bench.Memory}, NoKernel: true, Families: []int{4},
		Rounds: 1, Warmup: 10 * time.Millisecond, Window: 50 * time.Millisecond,
	}, &bench.TCP{Directions: []string{"send"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, row := range report.Rows {
		fmt.Println(row.Link, row.Name, row.Metrics[0].Name, row.Metrics[0].Unit)
	}
	// Output:
	// memory send/IPv4 rate Gbit/s
}
