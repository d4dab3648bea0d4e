// The pullers as Kubernetes has them, in Go, to be measured beside those of this crate: a goroutine a pull and a
// buffered channel of tokens, or one worker behind a channel of ten. Each pull has a result channel of its own,
// and the service does nothing.
//
//	pullers time KIND PULLS ROUNDS: nanoseconds a pull, a line for each round
//	pullers memory KIND PULLS: resident bytes for each pull that waits
//
// KIND is `serial`, or the limit of the parallel puller; 0 is none.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

type imageService interface {
	PullImage(ctx context.Context, image string) (string, error)
	ImageSize(ctx context.Context, image string) (uint64, error)
}

// idle answers at once; or not before its gate is closed, if it has one.
type idle struct{ gate chan struct{} }

func (service *idle) PullImage(_ context.Context, image string) (string, error) {
	if service.gate != nil {
		<-service.gate
	}
	return image, nil
}

func (service *idle) ImageSize(context.Context, string) (uint64, error) { return 1, nil }

type pullResult struct {
	id           uint64
	imageRef     string
	imageSize    uint64
	err          error
	pullDuration time.Duration
}

type request struct {
	ctx     context.Context
	id      uint64
	image   string
	results chan<- pullResult
}

func (r request) answer(service imageService) {
	begun := time.Now()
	imageRef, err := service.PullImage(r.ctx, r.image)
	var size uint64
	if err == nil && imageRef != "" {
		size, _ = service.ImageSize(r.ctx, r.image)
	}
	r.results <- pullResult{r.id, imageRef, size, err, time.Since(begun)}
}

type puller interface{ pullImage(r request) }

type parallel struct {
	service imageService
	tokens  chan struct{}
}

func (p *parallel) pullImage(r request) {
	go func() {
		if p.tokens != nil {
			p.tokens <- struct{}{}
			defer func() { <-p.tokens }()
		}
		r.answer(p.service)
	}()
}

type serial struct{ requests chan request }

func (p *serial) pullImage(r request) { p.requests <- r }

func newPuller(kind string, service imageService) puller {
	if kind == "serial" {
		p := &serial{make(chan request, 10)}
		go func() {
			for r := range p.requests {
				r.answer(service)
			}
		}()
		return p
	}
	p := &parallel{service: service}
	if limit := number(kind); limit > 0 {
		p.tokens = make(chan struct{}, limit)
	}
	return p
}

func ask(p puller, pulls int) []chan pullResult {
	results := make([]chan pullResult, pulls)
	for id := range results {
		results[id] = make(chan pullResult, 1)
		p.pullImage(request{context.Background(), uint64(id), "registry.example.com/app:v1", results[id]})
	}
	return results
}

func measureTime(kind string, pulls, rounds int) {
	p := newPuller(kind, &idle{})
	for ; rounds > 0; rounds-- {
		begun := time.Now()
		for _, result := range ask(p, pulls) {
			<-result
		}
		fmt.Println(float64(time.Since(begun).Nanoseconds()) / float64(pulls))
	}
}

func measureMemory(kind string, pulls int) {
	service := &idle{make(chan struct{})}
	p := newPuller(kind, service)
	before := resident()
	results := ask(p, pulls)
	// Until each goroutine has run as far as it can.
	time.Sleep(300 * time.Millisecond)
	fmt.Println(float64(resident()-before) / float64(pulls))
	runtime.KeepAlive(results)
}

// resident tells the bytes of memory that this process has in use.
func resident() int {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		panic(err)
	}
	return number(strings.Fields(string(statm))[1]) * os.Getpagesize()
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	if os.Args[1] == "memory" {
		measureMemory(os.Args[2], number(os.Args[3]))
	} else {
		measureTime(os.Args[2], number(os.Args[3]), number(os.Args[4]))
	}
}
