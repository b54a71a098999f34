// The work of bench/sync.lua, with Go. One round of what is named; prints "name<TAB>figure<TAB>unit".
//
// usage: gosync pingpong|threads|select …
package main

import (
	"fmt"
	"os"
	"runtime"
	"time"
)

func measure(name string, n int, work func()) {
	runtime.GC()
	started := time.Now()
	work()
	fmt.Printf("%s\t%.2f\tns\n", name, float64(time.Since(started).Nanoseconds())/float64(n))
}

func pingpong(name string, n int) {
	there, back := make(chan int), make(chan int)
	go func() {
		for value := range there {
			back <- value
		}
	}()
	measure(name, n, func() {
		for i := 0; i < n; i++ {
			there <- i
			<-back
		}
	})
	close(there)
}

func selectOverEight() {
	const n = 200000
	var c [8]chan int
	for i := range c {
		c[i] = make(chan int, 1)
	}
	sum := 0
	measure("send, then select over 8 channels", n, func() {
		for i := 0; i < n; i++ {
			c[i%8] <- i
			select {
			case v := <-c[0]:
				sum += v
			case v := <-c[1]:
				sum += v
			case v := <-c[2]:
				sum += v
			case v := <-c[3]:
				sum += v
			case v := <-c[4]:
				sum += v
			case v := <-c[5]:
				sum += v
			case v := <-c[6]:
				sum += v
			case v := <-c[7]:
				sum += v
			}
		}
	})
}

func main() {
	for _, name := range os.Args[1:] {
		switch name {
		case "pingpong":
			runtime.GOMAXPROCS(1)
			pingpong("channel round trip, one thread", 200000)
		case "threads":
			runtime.GOMAXPROCS(2)
			pingpong("channel round trip, two threads", 50000)
		case "select":
			runtime.GOMAXPROCS(2)
			selectOverEight()
		}
	}
}
