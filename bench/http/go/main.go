// The same with Go's net/http: one goroutine for each call in flight.
//
// usage: http calls|cold URL IN_FLIGHT CALLS [CA_FILE [h1]]
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func usage() (cpu time.Duration, kb int64) {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()), r.Maxrss
}

func transport(inFlight int) *http.Transport {
	t := &http.Transport{MaxIdleConns: inFlight, MaxIdleConnsPerHost: inFlight, DisableCompression: true}
	if len(os.Args) > 5 && os.Args[5] != "" {
		pem, err := os.ReadFile(os.Args[5])
		if err != nil {
			panic(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		t.TLSClientConfig = &tls.Config{RootCAs: pool, ClientSessionCache: tls.NewLRUClientSessionCache(64)}
		t.ForceAttemptHTTP2 = !(len(os.Args) > 6 && os.Args[6] == "h1")
	}
	return t
}

var chat string // what a URL with /chat/ in it is sent

func ask(client *http.Client, url string) (*http.Response, error) {
	if strings.Contains(url, "/chat/") {
		req, err := http.NewRequest("POST", url, strings.NewReader(chat))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer sk-0123456789abcdef0123456789abcdef")
		req.Header.Set("Content-Type", "application/json")
		return client.Do(req)
	}
	return client.Get(url)
}

func run(client *http.Client, url string, inFlight, calls int) {
	var left = int64(calls)
	var group sync.WaitGroup
	for i := 0; i < inFlight; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for atomic.AddInt64(&left, -1) >= 0 {
				res, err := ask(client, url)
				if err != nil {
					panic(err)
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		}()
	}
	group.Wait()
}

func main() {
	inFlight, _ := strconv.Atoi(os.Args[3])
	calls, _ := strconv.Atoi(os.Args[4])
	client := &http.Client{Transport: transport(inFlight)}
	prompt := 1
	if os.Args[1] == "calls" {
		prompt = 966
	}
	chat = `{"model":"m","messages":[{"role":"user","content":"` + strings.Repeat("x", prompt) + `"}]}`
	_, before := usage()
	if os.Args[1] == "calls" {
		run(client, os.Args[2], inFlight, inFlight*2)
	}
	cpu, _ := usage()
	began := time.Now()
	run(client, os.Args[2], inFlight, calls)
	wall := time.Since(began)
	after, kb := usage()
	fmt.Printf("cpu\t%.2f\nwall\t%.3f\nmemory\t%.1f\n", float64((after-cpu).Nanoseconds())/1e3/float64(calls),
		wall.Seconds(), float64(kb-before)/float64(inFlight))
}
