module weft/bench/gostream

go 1.19
