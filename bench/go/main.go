// The work of bench/weft.lua, with Go's errgroup. One round of what is named; prints "name<TAB>figure<TAB>unit".
//
// usage: go-bench PROCS noop|captures|table|go_wait|parked|parked3|map|speedup …
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

const tasks = 200000

var sink int

func report(name string, figure float64, unit string) {
	fmt.Printf("%s\t%.2f\t%s\n", name, figure, unit)
}

func measure(name string, n int, work func()) {
	runtime.GC()
	started := time.Now()
	work()
	report(name, float64(time.Since(started).Nanoseconds())/float64(n), "ns")
}

func group(n int, fn func(i int) int) {
	g, _ := errgroup.WithContext(context.Background())
	results := make([]int, n)
	for i := 0; i < n; i++ {
		i := i
		g.Go(func() error { results[i] = fn(i); return nil })
	}
	if err := g.Wait(); err != nil {
		panic(err)
	}
	sink += results[n-1]
}

func fib(n int) int {
	if n < 2 {
		return n
	}
	return fib(n-1) + fib(n-2)
}

func residentBytes() float64 {
	data, _ := os.ReadFile("/proc/self/statm")
	var size, pages float64
	fmt.Sscan(string(data), &size, &pages)
	return pages * 4096
}

func parked(name string) {
	const n = 100000
	gate, ready := make(chan int), make(chan bool, 1024)
	runtime.GC()
	before := residentBytes()
	g, _ := errgroup.WithContext(context.Background())
	results := make([]int, n)
	for i := 0; i < n; i++ {
		i := i
		g.Go(func() error { ready <- true; <-gate; results[i] = i; return nil })
	}
	for i := 0; i < n; i++ {
		<-ready
	}
	report("memory of "+name, (residentBytes()-before)/n, "bytes")
	measure("wake and finish "+name, n, func() {
		close(gate)
		g.Wait()
	})
}

func fourFibs(procs int) float64 {
	runtime.GOMAXPROCS(procs)
	started := time.Now()
	group(4, func(i int) int { return fib(34) })
	return time.Since(started).Seconds()
}

func mapItems() {
	items := make([]int, 1000000)
	results := make([]int, len(items))
	measure("map over a million items", len(items), func() {
		g := errgroup.Group{}
		for at := 0; at < len(items); at += 256 {
			from, to := at, at+256
			if to > len(items) {
				to = len(items)
			}
			g.Go(func() error {
				for i := from; i < to; i++ {
					results[i] = items[i] * 2
				}
				return nil
			})
		}
		g.Wait()
	})
}

func table() {
	list := make([]int, 100)
	measure("closure with a 100-element table", tasks/4, func() {
		g, _ := errgroup.WithContext(context.Background())
		results := make([]int, tasks/4)
		for i := 0; i < tasks/4; i++ {
			i, copied := i, append([]int(nil), list...)
			g.Go(func() error { results[i] = len(copied); return nil })
		}
		g.Wait()
	})
}

func main() {
	procs, _ := strconv.Atoi(os.Args[1])
	runtime.GOMAXPROCS(procs)
	a, b, c, d, e := 1, 2, 3, 4, 5
	rounds := map[string]func(){
		"noop": func() {
			measure("no-op task that returns a number", tasks, func() { group(tasks, func(i int) int { return 1 }) })
		},
		"captures": func() {
			measure("fresh closure with five captures", tasks, func() { group(tasks, func(i int) int { return a + b + c + d + e }) })
		},
		"table": table,
		"go_wait": func() {
			measure("go and wait of one task", tasks/4, func() {
				for i := 0; i < tasks/4; i++ {
					group(1, func(i int) int { return 1 })
				}
			})
		},
		"parked":  func() { parked("a parked task") },
		"parked3": func() { parked("a parked task with three captures") },
		"map":     mapItems,
		"speedup": func() {
			fourFibs(1)
			report("CPU-bound tasks on two threads", fourFibs(1)/fourFibs(2), "times as fast as on one")
		},
	}
	group(1000, func(i int) int { return 1 })
	for _, name := range os.Args[2:] {
		rounds[name]()
	}
}
