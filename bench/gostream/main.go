// What an event of a stream costs in Go: a goroutine a stream, net/http and bufio. The peer of
// bench/stream.lua; `make bench-stream` runs both.
//
// usage: gostream STREAMS EVENTS, with bench_stream's server at the other end
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func cpu() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(usage.Utime) + seconds(usage.Stime)
}

func resident() float64 {
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kilobytes, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	return kilobytes
}

func cut(line []byte) ([]byte, bool) {
	prefix := []byte("data:")
	return bytes.TrimPrefix(line, prefix), bytes.HasPrefix(line, prefix)
}

// The data of each event, joined by LF.
func read(url string) (count int, err error) {
	res, err := http.Get(url)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 8<<20)
	var data []byte
	for lines.Scan() {
		line := lines.Bytes()
		if value, ok := cut(line); ok {
			data = append(append(data, bytes.TrimPrefix(value, []byte(" "))...), '\n')
		} else if len(line) == 0 && len(data) > 0 {
			if event := string(data[:len(data)-1]); event != "" {
				count++
			}
			data = data[:0]
		}
	}
	return count, lines.Err()
}

func main() {
	runtime.GOMAXPROCS(2)
	streams, _ := strconv.Atoi(os.Args[1])
	server := exec.Command("build/c/bench_stream", "--serve", os.Args[1], os.Args[2])
	pipe, _ := server.StdoutPipe()
	if err := server.Start(); err != nil {
		panic(err)
	}
	port, _ := bufio.NewReader(pipe).ReadString('\n')
	url := "http://127.0.0.1:" + strings.TrimSpace(port) + "/"
	memory, before, started := resident(), cpu(), time.Now()
	var group sync.WaitGroup
	var lock sync.Mutex
	total := 0
	for i := 0; i < streams; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			count, err := read(url)
			if err != nil {
				panic(err)
			}
			lock.Lock()
			total += count
			lock.Unlock()
		}()
	}
	group.Wait()
	events := float64(total)
	fmt.Printf("%s: %d streams, %d events: %.1f us CPU and %.1f us an event in all, %.1f KB resident a stream\n",
		runtime.Version(), streams, total, (cpu()-before)*1e6/events, time.Since(started).Seconds()*1e6/events,
		(resident()-memory)/float64(streams))
}
