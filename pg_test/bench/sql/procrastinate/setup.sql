SELECT procrastinate_register_worker_v1();
