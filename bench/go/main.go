// The same work as bench/weft.lua, with Go's errgroup. Prints "name<TAB>nanoseconds an item", one round.
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

func report(name string, n int, work func()) {
	started := time.Now()
	work()
	fmt.Printf("%s\t%.1f\n", name, float64(time.Since(started).Nanoseconds())/float64(n))
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

func park(n int) {
	ch := make(chan int)
	g, _ := errgroup.WithContext(context.Background())
	ready := make(chan bool, 1024)
	results := make([]int, n)
	for i := 0; i < n; i++ {
		i := i
		g.Go(func() error { ready <- true; <-ch; results[i] = i; return nil })
	}
	for i := 0; i < n; i++ {
		<-ready
	}
	started := time.Now()
	close(ch)
	g.Wait()
	fmt.Printf("wake and finish a parked task\t%.1f\n", float64(time.Since(started).Nanoseconds())/float64(n))
}

func main() {
	procs := 2
	if len(os.Args) > 1 {
		procs, _ = strconv.Atoi(os.Args[1])
	}
	runtime.GOMAXPROCS(procs)
	a, b, c, d, e := 1, 2, 3, 4, 5
	report("no-op task that returns a number", tasks, func() { group(tasks, func(i int) int { return 1 }) })
	report("fresh closure with five captures", tasks, func() { group(tasks, func(i int) int { return a + b + c + d + e }) })
	report("closure with a 100-element table", tasks/4, func() {
		table := make([]int, 100)
		g, _ := errgroup.WithContext(context.Background())
		results := make([]int, tasks/4)
		for i := 0; i < tasks/4; i++ {
			i, copied := i, append([]int(nil), table...)
			g.Go(func() error { results[i] = len(copied); return nil })
		}
		g.Wait()
	})
	report("go and wait of one task", tasks/4, func() {
		for i := 0; i < tasks/4; i++ {
			group(1, func(i int) int { return 1 })
		}
	})
	park(100000)
	report("map over a million items", 1000000, func() {
		g := errgroup.Group{}
		items := make([]int, 1000000)
		results := make([]int, len(items))
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
	report("four CPU-bound tasks", 4, func() { group(4, func(i int) int { return fib(30) }) })
}
